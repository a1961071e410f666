"""The CUDA runtime as far as a runner needs it: NVIDIA's cuda-python, each call checked.

Addresses are ints, streams, events and graphs are cuda-python's own objects. Every function of it
gives a tuple, the error first (https://nvidia.github.io/cuda-python/cuda-bindings/latest). Its
modules were moved once: `cuda.bindings.runtime` of 12.8 and later was `cuda.cudart` (JetPack 6).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.errors import MissingExtraError

_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
_HINTS = {
    "cudaErrorInsufficientDriver": "install the cuda-python of the driver's CUDA version "
    "(`edge-mm doctor` names it), or a newer driver",
    "cudaErrorNoDevice": "no GPU is visible here, look at CUDA_VISIBLE_DEVICES",
    "cudaErrorMemoryAllocation": "close other programs, or build a smaller precision or context",
}


def import_cudart() -> Any:
    """cuda-python's runtime module; MissingExtraError where it is not installed."""
    for name in _MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise MissingExtraError("cuda-python", "gpu", f"needs {error.name}") from None
        except ImportError as error:  # installed, but a system library is missing
            raise MissingExtraError("cuda-python", "gpu", f"cannot be loaded ({error})") from None
    raise MissingExtraError("cuda-python", "gpu")


class Cuda:
    """Checked calls; EngineError names the call, CUDA's error and what it means."""

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart

    def start(self, device: int = 0) -> None:
        """Take the device for this thread: the first call, so it tells what is wrong with CUDA."""
        self._call("cudaSetDevice", device)

    def malloc(self, size: int) -> int:
        """Address of `size` bytes on the device."""
        return int(self._call("cudaMalloc", size, what=f" of {size / 1e6:.1f} MB"))

    def free(self, address: int) -> None:
        """Give memory of the device back."""
        self._call("cudaFree", address)

    def malloc_host(self, size: int) -> int:
        """Address of `size` bytes of pinned memory: the GPU copies it without the CPU."""
        flags = self._cudart.cudaHostAllocDefault
        return int(self._call("cudaHostAlloc", size, flags, what=f" of {size / 1e6:.1f} MB"))

    def free_host(self, address: int) -> None:
        """Give pinned memory back."""
        self._call("cudaFreeHost", address)

    def to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        """Copy pinned memory to the device, in the stream's order."""
        self._copy(device, host, size, "cudaMemcpyHostToDevice", stream)

    def to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        """Copy the device's memory to pinned memory, in the stream's order."""
        self._copy(host, device, size, "cudaMemcpyDeviceToHost", stream)

    def zero(self, address: int, size: int, stream: Any) -> None:
        """Fill memory of the device with zeros, in the stream's order."""
        self._call("cudaMemsetAsync", address, 0, size, stream)

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Any) -> None:
        """Give a stream back."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Any) -> None:
        """Wait until a stream has nothing left to do."""
        self._call("cudaStreamSynchronize", stream)

    def event(self) -> Any:
        """An event; who waits for it sleeps, where a wait for a stream may keep a core busy."""
        cudart = self._cudart
        flags = cudart.cudaEventBlockingSync | cudart.cudaEventDisableTiming
        return self._call("cudaEventCreateWithFlags", flags)

    def destroy_event(self, event: Any) -> None:
        """Give an event back."""
        self._call("cudaEventDestroy", event)

    def wait(self, event: Any, stream: Any) -> None:
        """Sleep until a stream has done what it was given so far."""
        self._call("cudaEventRecord", event, stream)
        self._call("cudaEventSynchronize", event)

    def capture(self, stream: Any, record: Callable[[], None]) -> Any:
        """An executable graph of what `record()` puts into the stream; nothing of it is run.

        What `record` raises is raised again, with the stream out of its capture.
        """
        cudart = self._cudart
        # Only this thread's calls are restricted while it lasts, not those of a camera's thread.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            record()
            graph = self._call("cudaStreamEndCapture", stream)
        except BaseException:
            _, half = cudart.cudaStreamEndCapture(stream)  # an error too: what failed is told
            if half is not None:
                cudart.cudaGraphDestroy(half)
            cudart.cudaGetLastError()  # or TensorRT's next call would find it
            raise
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Put a captured graph into a stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:
        """Give an executable graph back."""
        self._call("cudaGraphExecDestroy", graph)

    def _copy(self, target: int, source: int, size: int, kind: str, stream: Any) -> None:
        kinds = self._cudart.cudaMemcpyKind
        self._call("cudaMemcpyAsync", target, source, size, getattr(kinds, kind), stream)

    def _call(self, name: str, *arguments: Any, what: str = "") -> Any:
        """The value of a call, None where it has none."""
        error, *values = getattr(self._cudart, name)(*arguments)
        if error != self._cudart.cudaError_t.cudaSuccess:
            raise EngineError(f"{name}{what} failed: {self._described(error)}")
        return values[0] if values else None

    def _described(self, error: Any) -> str:
        named, told = (
            call(error)[1].decode(errors="replace")
            for call in (self._cudart.cudaGetErrorName, self._cudart.cudaGetErrorString)
        )
        hint = _HINTS.get(named)
        return f"{named} ({told})" + (f": {hint}" if hint else "")
