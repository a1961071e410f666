"""Which TensorRT builds what, and which graphs it reads.

Full TensorRT cannot be installed without a GPU, so an empty module stands in for it; where only
the presence of a class or a method is asked, nothing more of it is needed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.engines.device import Gpu
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library, choose_library, choose_target
from edge_mm_runtime.errors import MissingExtraError

ORIN = Gpu("Orin", 87, "12.6")
DESKTOP = Gpu("NVIDIA GeForce RTX 4090", 89, "13.0")

Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """install("tensorrt") makes stand-ins importable, and nothing else of the two."""

    def put(*names: str) -> None:
        for name in ("tensorrt", "tensorrt_rtx"):
            module = types.ModuleType(name)
            module.__version__ = "0"  # type: ignore[attr-defined]
            capabilities = {"NONE": 0, "SM86": 86, "SM89": 89}
            module.ComputeCapability = types.SimpleNamespace(  # type: ignore[attr-defined]
                __members__=capabilities
            )
            monkeypatch.setitem(sys.modules, name, module if name in names else None)

    return put


@pytest.mark.parametrize(("capability", "board"), [(87, "Jetson Orin"), (110, "Jetson Thor")])
def test_a_jetson_is_built_on_the_jetson(capability: int, board: str, install: Install) -> None:
    install("tensorrt", "tensorrt_rtx")
    for gpu in (None, DESKTOP):
        with pytest.raises(EngineError, match=f"SM{capability} is a {board}.*on.*the Jetson"):
            choose_library(gpu, capability)


def test_the_device_builds_with_its_own_tensorrt(install: Install) -> None:
    install("tensorrt", "tensorrt_rtx")
    for gpu in (ORIN, DESKTOP):
        for asked in (None, gpu.compute_capability):
            library, capability = choose_library(gpu, asked)
            assert (library.flavour, capability) == ("tensorrt", gpu.compute_capability)


def test_another_gpu_is_built_ahead_of_time(install: Install) -> None:
    install("tensorrt", "tensorrt_rtx")
    assert choose_library(DESKTOP, 86)[0].flavour == "tensorrt_rtx"
    assert choose_library(None, 89)[0].flavour == "tensorrt_rtx"
    install("tensorrt_rtx")
    assert choose_library(DESKTOP, None)[0].flavour == "tensorrt_rtx"


def test_what_is_missing_is_named(install: Install) -> None:
    install()
    with pytest.raises(EngineError, match=r"no usable NVIDIA GPU.*--compute-capability"):
        choose_library(None, None)
    with pytest.raises(MissingExtraError, match=r"tensorrt_rtx is not.*edge-mm\[rtx\]"):
        choose_library(None, 89)
    with pytest.raises(MissingExtraError, match=r"tensorrt is not.*edge-mm\[gpu\]"):
        choose_library(DESKTOP, None)
    with pytest.raises(EngineError, match=r"Jetson Orin.*JetPack.*--system-site-packages"):
        choose_library(ORIN, None)


def test_a_capability_without_kernels_is_refused(install: Install) -> None:
    install("tensorrt_rtx")
    with pytest.raises(EngineError, match="builds for SM86, 89 and not for SM90"):
        choose_library(None, 90)


def test_rtx_names_its_own_capabilities(rtx: Any) -> None:
    with pytest.raises(EngineError, match=r"TensorRT-RTX \d.*SM.*89, 120.*not for SM90"):
        choose_library(None, 90)


class OldNetwork:
    """TensorRT 10.3's INetworkDefinition: no KVCacheUpdate layer."""


class NewNetwork:
    """TensorRT 10.15's."""

    def add_kv_cache_update(self) -> None:
        """A layer."""


def library(network: type) -> Library:
    return Library(types.SimpleNamespace(INetworkDefinition=network, __version__="0"), "tensorrt")


def test_the_graphs_are_those_that_it_reads(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle(target="tensorrt")
    assert choose_target(bundle, library(NewNetwork)) == "tensorrt"
    with pytest.raises(EngineError, match=r"it has: tensorrt; .*--target tensorrt-10.3"):
        choose_target(bundle, library(OldNetwork))


def test_primitive_graphs_are_read_by_both(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle(target="tensorrt-10.3")
    for network in (NewNetwork, OldNetwork):
        assert choose_target(bundle, library(network)) == "tensorrt-10.3"


def test_a_bundle_of_other_targets_is_named(make_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(EngineError, match=r"it has: cpu; export .* --target tensorrt$"):
        choose_target(make_bundle(target="cpu"), library(NewNetwork))
