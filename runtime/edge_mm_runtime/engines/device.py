"""The GPU of this machine, asked of NVIDIA's driver library itself: no package is needed.

CUDA Driver API: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CUdevice_attribute
_NAME_BYTES = 256

JETSONS = {87: "Jetson Orin", 101: "Jetson Thor", 110: "Jetson Thor"}
"""Compute capabilities that only JetPack's TensorRT builds for (Thor was 101 before CUDA 13)."""


class Gpu(NamedTuple):
    """The first GPU; compute_capability 89 is SM 8.9, cuda the newest CUDA of its driver."""

    name: str
    compute_capability: int
    cuda: str


def find_gpu(driver: Any = None) -> Gpu | None:
    """The first GPU that CUDA shows, or None; `driver` is libcuda, opened where it is None."""
    try:
        cuda = driver or ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor, version = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(_NAME_BYTES)
    # Each call gives 0 (CUDA_SUCCESS) or an error; the first that fails ends the walk.
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, _NAME_BYTES, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
    )
    if failed:
        return None
    return Gpu(
        name.value.decode(errors="replace"),
        10 * major.value + minor.value,
        f"{version.value // 1000}.{version.value % 1000 // 10}",
    )
