"""Which engines a machine gets, and what it is told about those that do not fit."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from edge_mm_runtime.bundle import Bundle, load_bundle, write_manifest
from edge_mm_runtime.engines import locate
from edge_mm_runtime.engines.device import Gpu
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Flavour, Library
from edge_mm_runtime.engines.locate import find_engines
from edge_mm_runtime.engines.manifest import (
    EngineManifest,
    Machine,
    Plan,
    engine_folder,
    graph_sha256,
    manifest_files,
)

ORIN = Machine("Orin", 87, "tensorrt", "10.3.0", "12.6")
AHEAD = Machine("ahead of time for SM89", 89, "tensorrt_rtx", "1.7.1")
PLAN = b"a plan"

Here = Callable[..., None]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """here(name, capability, version, flavour): the machine that this is."""

    def put(
        name: str, capability: int, version: str = "10.3.0", flavour: Flavour = "tensorrt"
    ) -> None:
        library = Library(types.SimpleNamespace(__version__=version), flavour)
        monkeypatch.setattr(locate, "find_gpu", lambda: Gpu(name, capability, "12.6"))
        monkeypatch.setattr(locate, "choose_library", lambda gpu, cc: (library, capability))

    return put


def engines(bundle: Bundle, machine: Machine, target: str = "tensorrt") -> Path:
    """Engines as the builder leaves them."""
    graphs = bundle.graphs("tensorrt")
    folder = engine_folder(bundle, graphs, machine)
    folder = folder.with_name(f"{folder.name}-{target}")
    folder.mkdir(parents=True)
    plans = {}
    for name, graph in (("vision", graphs.vision), ("decoder", graphs.decoder)):
        (folder / f"{name}.engine").write_bytes(PLAN)
        digest, made_of = hashlib.sha256(PLAN).hexdigest(), graph_sha256(bundle, graph)
        plans[name] = Plan(f"{name}.engine", len(PLAN), digest, graph, made_of, (), 1.5)
    manifest = EngineManifest(
        edge_mm="0.1.0", machine=machine, target=target, precision="fp16", plans=plans
    )
    for name, data in manifest_files(manifest).items():
        (folder / name).write_bytes(data)
    return folder


def refusal(bundle: Bundle, target: str | None = None) -> str:
    with pytest.raises(EngineError) as error:
        find_engines(bundle, target)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_engines_of_this_machine_are_found(
    make_bundle: Callable[..., Bundle], here: Here
) -> None:
    bundle = make_bundle()
    folder = engines(bundle, ORIN)
    engines(bundle, AHEAD)
    here("Orin", 87)
    found = find_engines(bundle)
    assert found.folder == folder
    assert found.plan("decoder") == folder / "decoder.engine"
    assert (found.manifest.target, str(found.library)) == ("tensorrt", "TensorRT 10.3.0")


def test_engines_built_ahead_of_time_fit_any_gpu_of_their_capability(
    make_bundle: Callable[..., Bundle], here: Here
) -> None:
    bundle = make_bundle()
    folder = engines(bundle, AHEAD)
    here("NVIDIA GeForce RTX 4090", 89, "1.7.1", "tensorrt_rtx")
    assert find_engines(bundle).folder == folder


def test_what_differs_is_named_with_the_command(
    make_bundle: Callable[..., Bundle], here: Here
) -> None:
    bundle = make_bundle()
    engines(bundle, ORIN)
    again = f": run `edge-mm build {bundle.folder}` on this machine"
    here("Orin", 87, "10.16.1")  # after an update of JetPack
    assert refusal(bundle).endswith("was built for TensorRT 10.3.0, here is 10.16.1" + again)
    here("NVIDIA Thor", 110, "10.16.1")
    assert refusal(bundle).endswith(
        "was built for TensorRT 10.3.0, here is 10.16.1; for GPU Orin, here is NVIDIA Thor; "
        "for compute capability 87, here is 110" + again
    )


def test_the_nearest_engines_are_told_about(make_bundle: Callable[..., Bundle], here: Here) -> None:
    bundle = make_bundle()
    engines(bundle, AHEAD)
    engines(bundle, ORIN)
    here("Orin", 87, "10.16.1")
    told = refusal(bundle)
    assert "/orin-sm87-" in told and "ahead-of-time" not in told


def test_another_graph_is_named(
    make_bundle: Callable[..., Bundle], graphs: types.SimpleNamespace, here: Here
) -> None:
    bundle = make_bundle()
    engines(bundle, ORIN)
    here("Orin", 87)
    model = graphs.decoder()
    model.graph.initializer.append(onnx.helper.make_tensor("spare", 1, [1], [0.0]))
    path = bundle.path(bundle.graphs("tensorrt").decoder)
    onnx.save(model, str(path))
    write_manifest(bundle.folder, bundle.manifest)
    assert "for graph decoder.tensorrt.onnx" in refusal(load_bundle(bundle.folder))


def test_without_engines_it_says_how_to_build_them(
    make_bundle: Callable[..., Bundle], here: Here
) -> None:
    bundle = make_bundle()
    here("Orin", 87)
    build = f": run `edge-mm build {bundle.folder}` on this machine"
    assert refusal(bundle) == f"{bundle.folder} has no TensorRT engines{build}"
    engines(bundle, ORIN)
    assert refusal(bundle, "tensorrt-10.3") == (
        f"{bundle.folder} has no TensorRT engines of target tensorrt-10.3 "
        f"(it has engines of tensorrt){build}"
    )
    folder = engines(bundle, ORIN, "tensorrt-10.3")
    assert find_engines(bundle, "tensorrt-10.3").folder == folder


def test_a_damaged_manifest_is_told_where_it_is_the_only_one(
    make_bundle: Callable[..., Bundle], here: Here
) -> None:
    bundle = make_bundle()
    folder = engines(bundle, ORIN)
    here("Orin", 87)
    (folder / "engine.json").write_text("{")
    assert f"{folder / 'engine.json'} is damaged" in refusal(bundle)
    other = engines(bundle, ORIN, "tensorrt-10.3")
    assert find_engines(bundle).folder == other


def test_only_the_part_that_is_opened_is_read(
    make_bundle: Callable[..., Bundle], here: Here
) -> None:
    bundle = make_bundle()
    folder = engines(bundle, ORIN)
    here("Orin", 87)
    (folder / "vision.engine").write_bytes(b"b plan")
    assert find_engines(bundle, parts=("decoder",)).folder == folder
    with pytest.raises(EngineError, match=r"vision.engine has a wrong hash: run `edge-mm build"):
        find_engines(bundle, parts=("vision",))


def test_without_a_gpu_it_is_one_line(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "find_gpu", lambda: None)
    assert refusal(make_bundle()).startswith("no usable NVIDIA GPU (libcuda.so.1) on this machine")
