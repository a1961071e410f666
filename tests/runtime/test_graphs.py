"""Which graphs answer on a device."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import numpy as np
import pytest

from edge_mm_runtime import Session
from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.devices import Device
from edge_mm_runtime.engines import locate
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.errors import BundleError, UsageError
from edge_mm_runtime.graphs import default_target, open_graph

FRAME = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(tiny_bundle, tmp_path / "copy")))


def having(bundle: Bundle, *targets: str) -> Bundle:
    graphs = dict.fromkeys(targets, bundle.manifest.graphs["cpu"])
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, graphs=graphs))


@pytest.mark.parametrize(
    ("targets", "device", "chosen"),
    [
        (["cuda", "cpu"], "cpu", "cpu"),
        (["tensorrt"], "cpu", "tensorrt"),
        (["cpu", "cuda"], "cuda", "cuda"),
    ],
)
def test_a_device_has_its_target(
    bundle: Bundle, targets: list[str], device: Device, chosen: str
) -> None:
    assert default_target(having(bundle, *targets), device) == chosen


def test_tensorrt_takes_the_target_of_the_engines_that_were_built(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = SimpleNamespace(manifest=SimpleNamespace(target="tensorrt-10.3"))
    monkeypatch.setattr(locate, "find_engines", lambda *_: built)
    both = having(bundle, "cpu", "tensorrt", "tensorrt-10.3")
    assert default_target(both, "tensorrt") == "tensorrt-10.3"


def test_tensorrt_without_a_gpu_says_so(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate, "find_gpu", lambda: None)
    with pytest.raises(EngineError, match="no usable NVIDIA GPU"):
        Session(having(bundle, "cpu", "tensorrt"), device="tensorrt")


def test_a_bundle_without_graphs_for_a_device_is_named(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no graphs for target 'cuda', it has: cpu"):
        Session(bundle, device="cuda")
    with pytest.raises(UsageError, match="unknown device 'gpu': one of cpu, cuda, tensorrt"):
        Session(bundle, device="gpu")  # type: ignore[arg-type]


def test_cuda_is_not_replaced_by_the_cpu(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="asked for CUDAExecutionProvider"):
        Session(having(bundle, "cpu", "cuda"), device="cuda")


def test_tensorrt_engines_answer(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, str]] = []
    engines = ModuleType("edge_mm_runtime.engines.runner")

    def open_engine(bundle: Bundle, part: str, target: str) -> object:
        opened.append((part, target))
        return open_graph(bundle, part, "cpu", 1)  # type: ignore[arg-type]

    engines.open_engine = open_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, engines.__name__, engines)
    both = having(bundle, "cpu", "tensorrt")
    # the cpu graphs stand in for the engines, so the decoder is told its places as they are
    with Session(both, device="tensorrt", target="cpu") as session:
        assert session.ask(FRAME, "find the cup", max_new_tokens=1).finish_reason == "length"
    assert opened == [("vision", "cpu"), ("decoder", "cpu")]
    opened.clear()
    built = SimpleNamespace(manifest=SimpleNamespace(target="tensorrt"))
    monkeypatch.setattr(locate, "find_engines", lambda *_: built)
    Session(both, device="tensorrt").close()
    assert opened == [("vision", "tensorrt"), ("decoder", "tensorrt")]
