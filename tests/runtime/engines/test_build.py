"""From a bundle to its engines, with a real TensorRT-RTX; what is refused is refused before it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.engines import build as build_module
from edge_mm_runtime.engines.build import build_engines, write
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library
from edge_mm_runtime.engines.manifest import check_engine

Make = Callable[..., Bundle]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine builds as one without a GPU does."""
    monkeypatch.setattr(build_module, "find_gpu", lambda: None)


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A TensorRT that must not be called: the refusals come before it."""

    class Network:
        def add_kv_cache_update(self) -> None:
            """A layer."""

    class Module:
        INetworkDefinition = Network
        __version__ = "0"

    library = Library(Module, "tensorrt_rtx")
    monkeypatch.setattr(build_module, "choose_library", lambda gpu, cc: (library, cc))


def left(bundle: Bundle) -> list[str]:
    """What lies in the engines folder, at any depth."""
    folder = bundle.folder / "engines"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("capability", [89, 120])
def test_engines_are_built_and_described(capability: int, rtx: Any, make_bundle: Make) -> None:
    bundle, shown = make_bundle(), []  # type: ignore[var-annotated]
    built = build_engines(bundle, compute_capability=capability, show=shown.append)
    assert built.fresh
    assert built.folder.parent == bundle.folder / "engines"
    assert left(bundle) == [
        built.folder.name,
        *(
            f"{built.folder.name}/{name}"
            for name in ("decoder.engine", "engine.json", "engine.json.sha256", "vision.engine")
        ),
    ]
    made = built.manifest.machine
    assert made.gpu == f"ahead of time for SM{capability}"
    assert (made.flavour, made.tensorrt) == ("tensorrt_rtx", rtx.__version__)
    for name, plan in built.manifest.plans.items():
        data = (built.folder / f"{name}.engine").read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (plan.bytes, plan.sha256)
        assert plan.onnx_sha256 == hashlib.sha256(bundle.path(plan.onnx).read_bytes()).hexdigest()
        assert plan.build_s > 0
    profiles = built.manifest.plans["decoder"].profiles
    assert [profile.name for profile in profiles] == ["prefill", "decode"]
    assert set(profiles[0].shapes) == {"input_ids", "image_embeds", "position_ids"}
    assert any(line.startswith("decoder: ") for line in shown)
    assert check_engine(built.folder, load_bundle(bundle.folder), made) == built.manifest


def test_whole_engines_stay_and_damaged_ones_are_replaced(rtx: Any, make_bundle: Make) -> None:
    bundle = make_bundle()
    first = build_engines(bundle, compute_capability=89)
    assert not build_engines(bundle, compute_capability=89).fresh
    path = first.folder / "vision.engine"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"vision.engine has a wrong hash: run `edge-mm build"):
        check_engine(first.folder, bundle, first.manifest.machine)
    assert build_engines(bundle, compute_capability=89).fresh
    check_engine(first.folder, bundle, first.manifest.machine)
    assert [name for name in left(bundle) if "/" not in name] == [first.folder.name]


def test_ctrl_c_leaves_nothing(rtx: Any, make_bundle: Make, ctrl_c: Callable[..., None]) -> None:
    bundle = make_bundle()

    def interrupt(line: str) -> None:
        if line.startswith("decoder"):  # the vision engine is written already
            ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        build_engines(bundle, compute_capability=89, show=interrupt)
    assert left(bundle) == []


def test_a_failed_graph_leaves_nothing(rtx: Any, make_bundle: Make, graphs: Any) -> None:
    bundle = make_bundle(decoder=graphs.decoder(last="FancyGather"))
    with pytest.raises(EngineError, match="operator FancyGather"):
        build_engines(bundle, compute_capability=89)
    assert left(bundle) == []


@pytest.mark.usefixtures("no_tensorrt")
def test_memory_is_checked_first(make_bundle: Make) -> None:
    bundle = make_bundle()
    with pytest.raises(EngineError, match=r"takes about 1.3 GiB at its peak and 1.0 GiB are free"):
        build_engines(bundle, compute_capability=89, memory_limit_bytes=1 << 30)
    assert left(bundle) == []


@pytest.mark.usefixtures("no_tensorrt")
def test_a_precision_is_checked_first(make_bundle: Make) -> None:
    with pytest.raises(EngineError, match=r"bundle \(tensorrt\) computes in fp8, .* SM86"):
        build_engines(make_bundle(precision="fp8"), compute_capability=86)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("only Linux has a device that is always full")
    with pytest.raises(EngineError, match=r"the disk is full: full takes 3 MB, make room"):
        write(full, memoryview(bytes(3_000_000)))
    with pytest.raises(EngineError, match=r"cannot write .*gone/x: No such file"):
        write(tmp_path / "gone" / "x", b"")


@pytest.mark.usefixtures("no_tensorrt")
def test_a_folder_that_cannot_be_written_is_told(make_bundle: Make) -> None:
    bundle = make_bundle()
    (bundle.folder / "engines").write_text("a file in the way")
    with pytest.raises(EngineError, match=r"cannot make .*engines: File exists: copy the bundle"):
        build_engines(bundle, compute_capability=89, memory_limit_bytes=8 << 30)
