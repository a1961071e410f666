"""The GPU is asked of the driver. No test machine has one, so a stand-in answers like libcuda."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from edge_mm_runtime.engines.device import Gpu, find_gpu


class Driver:
    """An Orin on JetPack 6, as CUDA's driver library describes it; `fails` names a broken call."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            if name == self.fails:
                return 100  # CUDA_ERROR_NO_DEVICE
            if name == "cuDeviceGetName":
                args[0].value = b"Orin"
            elif name == "cuDeviceGetAttribute":
                args[0]._obj.value = {75: 8, 76: 7}[args[1]]
            elif name == "cuDriverGetVersion":
                args[0]._obj.value = 12060
            return 0

        return call


def test_the_gpu_is_described() -> None:
    assert find_gpu(Driver()) == Gpu("Orin", 87, "12.6")


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute"])
def test_a_driver_without_a_gpu_is_no_gpu(call: str) -> None:
    assert find_gpu(Driver(fails=call)) is None


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert find_gpu() is None
