"""engine.json against this machine and bundle, all without TensorRT."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace

from edge_mm_runtime.bundle import Bundle, load_bundle, write_manifest
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.manifest import (
    EngineManifest,
    Machine,
    Plan,
    check_engine,
    engine_folder,
    graph_sha256,
    load_engine_manifest,
    manifest_files,
)
from edge_mm_runtime.engines.profiles import Profile, Range

ORIN = Machine("Orin", 87, "tensorrt", "10.3.0", "12.6")
AHEAD = Machine("ahead of time for SM89", 89, "tensorrt_rtx", "1.7.1.116")
PLAN = b"a plan" * 100


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle()


def engines(bundle: Bundle, machine: Machine) -> Path:
    """Engines of `bundle` as the builder leaves them; returns their folder."""
    graphs = bundle.graphs("tensorrt")
    folder = engine_folder(bundle, graphs, machine)
    folder.mkdir(parents=True)
    plans = {}
    for name, graph in (("vision", graphs.vision), ("decoder", graphs.decoder)):
        (folder / f"{name}.engine").write_bytes(PLAN)
        profile = Profile(name, {"x": Range((1,), (2,), (3,))})
        plans[name] = Plan(
            f"{name}.engine",
            len(PLAN),
            hashlib.sha256(PLAN).hexdigest(),
            graph,
            graph_sha256(bundle, graph),
            (profile,),
            1.5,
        )
    manifest = EngineManifest(
        edge_mm="0.1.0", machine=machine, target="tensorrt", precision="fp16", plans=plans
    )
    for name, data in manifest_files(manifest).items():
        (folder / name).write_bytes(data)
    return folder


def test_what_fits_is_loaded(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    manifest = check_engine(folder, bundle, ORIN)
    assert manifest == load_engine_manifest(folder)
    assert manifest.plans["decoder"].profiles[0].shapes["x"].greatest == (3,)
    assert json.loads((folder / "engine.json").read_text())["machine"]["gpu"] == "Orin"


def test_the_folder_says_what_it_is(bundle: Bundle) -> None:
    graphs = bundle.graphs("tensorrt")
    digests = "".join(
        hashlib.sha256((bundle.folder / path).read_bytes()).hexdigest()
        for path in (graphs.vision, graphs.decoder)
    )
    digest = hashlib.sha256(digests.encode()).hexdigest()[:12]
    assert engine_folder(bundle, graphs, ORIN) == (
        bundle.folder / "engines" / f"orin-sm87-trt10.3.0-{digest}"
    )
    name = engine_folder(bundle, graphs, AHEAD).name
    assert name == f"ahead-of-time-sm89-trt-rtx1.7.1.116-{digest}"


@pytest.mark.parametrize(
    ("here", "line"),
    [
        (replace(ORIN, tensorrt="10.16.1"), "for TensorRT 10.3.0, here is 10.16.1: run `edge-mm"),
        (replace(ORIN, gpu="Orin Nano"), "for GPU Orin, here is Orin Nano: run `edge-mm build"),
        (
            Machine("NVIDIA Thor", 110, "tensorrt", "10.16.1"),
            "for TensorRT 10.3.0, here is 10.16.1; for GPU Orin, here is NVIDIA Thor; "
            "for compute capability 87, here is 110: run",
        ),
        (
            replace(ORIN, flavour="tensorrt_rtx", tensorrt="1.7"),
            "for TensorRT flavour tensorrt, here is tensorrt_rtx: run",
        ),
    ],
)
def test_another_machine_is_named(bundle: Bundle, here: Machine, line: str) -> None:
    folder = engines(bundle, ORIN)
    with pytest.raises(EngineError) as error:
        check_engine(folder, bundle, here)
    assert f"{folder} was built {line}" in str(error.value)
    assert str(error.value).endswith(f"`edge-mm build {bundle.folder}` on this machine")


def test_a_newer_driver_is_no_difference(bundle: Bundle) -> None:
    check_engine(engines(bundle, ORIN), bundle, replace(ORIN, cuda="13.2"))


def test_engines_built_ahead_run_on_every_gpu_of_the_capability(bundle: Bundle) -> None:
    folder = engines(bundle, AHEAD)
    card = Machine("NVIDIA GeForce RTX 4070", 89, "tensorrt_rtx", "1.7.1.116", "13.0")
    check_engine(folder, bundle, card)
    with pytest.raises(EngineError, match="for compute capability 89, here is 86: run"):
        check_engine(folder, bundle, replace(card, compute_capability=86))


def test_changed_graphs_are_named(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    path = bundle.folder / "decoder.tensorrt.onnx"
    model = onnx.load(str(path))
    model.doc_string = "exported again"
    onnx.save(model, str(path))
    write_manifest(bundle.folder, bundle.manifest)
    now = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    with pytest.raises(EngineError, match=rf"for graph decoder\S+ \w{{12}}, the bundle has {now}:"):
        check_engine(folder, load_bundle(bundle.folder), ORIN)


def test_external_data_is_part_of_a_graph(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    (bundle.folder / "decoder.tensorrt.onnx.data").write_bytes(b"weights")
    write_manifest(bundle.folder, bundle.manifest)
    with pytest.raises(EngineError, match=r"for graph decoder.tensorrt.onnx \w{12}, the bundle"):
        check_engine(folder, load_bundle(bundle.folder), ORIN)


def test_a_flipped_byte_is_found(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    path = folder / "decoder.engine"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"decoder.engine has a wrong hash: run `edge-mm build"):
        check_engine(folder, bundle, ORIN)
    check_engine(folder, bundle, ORIN, verify="size")  # the fast mode does not see it


def test_a_cut_or_missing_plan_is_named(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    (folder / "vision.engine").write_bytes(PLAN[:7])
    with pytest.raises(EngineError, match=r"vision.engine has 7 bytes instead of 600: run"):
        check_engine(folder, bundle, ORIN, verify="size")
    (folder / "vision.engine").unlink()
    with pytest.raises(EngineError, match=r"vision.engine is missing: run `edge-mm build"):
        check_engine(folder, bundle, ORIN)


def test_200_random_corruptions_are_refused_by_name(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    names = ("decoder.engine", "vision.engine", "engine.json", "engine.json.sha256")
    assert {path.name for path in folder.iterdir()} == set(names)
    draw = random.Random(20261122)
    every = itertools.product(names, ["flip", "truncate", "extra", "delete"])
    for name, kind in itertools.islice(itertools.cycle(every), 200):
        path = folder / name
        whole = path.read_bytes()
        data = bytearray(whole)
        place = draw.randrange(len(data))
        if kind == "flip":
            data[place] ^= draw.randint(1, 255)
        elif kind == "truncate":
            del data[place:]
        else:
            data += draw.randbytes(8)
        path.write_bytes(data)
        if kind == "delete":
            path.unlink()
        with pytest.raises(EngineError) as refusal:
            check_engine(folder, bundle, ORIN)
        message = str(refusal.value)
        named = name in message or (name, kind) == ("engine.json", "delete")  # "no engines at"
        assert named and "\n" not in message, (name, kind, message)
        path.write_bytes(whole)
    check_engine(folder, bundle, ORIN)


def edit(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    path = folder / "engine.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    text = json.dumps(manifest)
    path.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "engine.json.sha256").write_text(f"{digest}  engine.json\n")


def test_a_damaged_manifest_is_named(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"no engines at .*nowhere: run `edge-mm build` again"):
        load_engine_manifest(bundle.folder / "nowhere")
    folder = engines(bundle, ORIN)
    edit(folder, lambda manifest: manifest.update(schema=2))
    with pytest.raises(EngineError, match="engine schema 2, this edge-mm reads schema 1: run"):
        load_engine_manifest(folder)
    edit(folder, lambda manifest: manifest.update(schema=1, plans=3))
    with pytest.raises(EngineError, match=r"engine.json is damaged: .*\$.plans.*: run"):
        load_engine_manifest(folder)


def test_a_plan_outside_is_refused(bundle: Bundle) -> None:
    folder = engines(bundle, ORIN)
    edit(folder, lambda manifest: manifest["plans"]["vision"].update(file="../x"))  # type: ignore
    with pytest.raises(EngineError, match=r"names a file outside it: ../x"):
        check_engine(folder, bundle, ORIN)
