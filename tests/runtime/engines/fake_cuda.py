"""A CUDA runtime in the computer's own memory, under the names of `cuda.bindings.runtime`.

No proof that anything runs on a GPU: it records calls, and is as strict as the real one about what
a runner may do. Work in a stream is done when somebody waits for it, never before; the host cannot
read the device's memory; while a stream is captured nothing is allocated or waited for.
"""

from __future__ import annotations

import ctypes
import enum
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

_FIRST_ADDRESS = 1 << 40  # no address of this process: who follows it on the host crashes
_ALIGNMENT = 256


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


Work = Callable[[], None]


class Stream:
    """Work that was put in and not yet done; `captured` instead of it during a capture."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.waiting: list[Work] = []
        self.captured: list[Work] | None = None

    def __int__(self) -> int:
        return self.handle

    def put(self, work: Work) -> None:
        (self.waiting if self.captured is None else self.captured).append(work)

    def finish(self) -> None:
        while self.waiting:
            self.waiting.pop(0)()


class Event:
    """What a stream had to do when it was recorded: here simply the stream."""

    stream: Stream | None = None


class Graph:
    """Captured work; executable after cudaGraphInstantiate."""

    def __init__(self, work: list[Work]) -> None:
        self.work = work


def call(function: Callable[..., Any]) -> Callable[..., Any]:
    """A recorded function of CUDA, which gives a tuple, the error first."""

    @functools.wraps(function)
    def recorded(self: FakeCudart, *arguments: Any) -> tuple[Any, ...]:
        name = function.__name__
        self.calls.append(name)
        forbidden = ("Malloc", "HostAlloc", "Synchronize", "cudaFree", "Memset")
        if any(part in name for part in forbidden) and self.capturing():
            return (cudaError_t.cudaErrorStreamCaptureUnsupported, None)
        error = self.failing.get(name)
        if error is not None and name == "cudaStreamEndCapture":
            arguments[0].captured = None  # it ends all the same
        if error is None:
            try:
                return (cudaError_t.cudaSuccess, *(function(self, *arguments) or ()))
            except KeyError:  # what was never given out, or is given back already
                error = cudaError_t.cudaErrorInvalidValue
        return (error, None)

    return recorded


class FakeCudart:
    """The module; `calls` are the names in order, `failing` maps a name to the error it gives."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, cudaError_t] = {}
        self.device: dict[int, np.ndarray] = {}
        self.host: dict[int, Any] = {}
        self.objects: set[Any] = set()  # streams, events and graphs
        self._next = _FIRST_ADDRESS

    def capturing(self) -> bool:
        streams = (item for item in self.objects if isinstance(item, Stream))
        return any(stream.captured is not None for stream in streams)

    def stream(self, handle: int) -> Stream:
        """The stream that TensorRT gets as a number."""
        return next(s for s in self.objects if isinstance(s, Stream) and s.handle == handle)

    def memory(self, address: int, size: int) -> np.ndarray:
        """`size` bytes at an address of the device."""
        assert size <= self.device[address].size, "past the end of what was allocated"
        return self.device[address][:size]

    @property
    def leaks(self) -> int:
        """How much was not given back."""
        return len(self.device) + len(self.host) + len(self.objects)

    @call
    def cudaSetDevice(self, device: int) -> None:
        assert device == 0

    @call
    def cudaMalloc(self, size: int) -> tuple[int]:
        address = self._next
        self._next += (size // _ALIGNMENT + 2) * _ALIGNMENT
        self.device[address] = np.full(size, 0xAA, np.uint8)  # memory is never zero by itself
        return (address,)

    @call
    def cudaFree(self, address: int) -> None:
        del self.device[address]

    @call
    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int]:
        buffer = ctypes.create_string_buffer(size)
        self.host[ctypes.addressof(buffer)] = buffer
        return (ctypes.addressof(buffer),)

    @call
    def cudaFreeHost(self, address: int) -> None:
        del self.host[address]

    @call
    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: Stream) -> None:
        def pinned(address: int) -> np.ndarray:
            buffer = self.host[address]
            assert size <= len(buffer)
            return np.frombuffer(buffer, np.uint8)[:size]

        def copy() -> None:
            if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
                self.memory(to, size)[:] = pinned(source)
            else:
                pinned(to)[:] = self.memory(source, size)

        stream.put(copy)

    @call
    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: Stream) -> None:
        stream.put(lambda: self.memory(address, size).fill(value))

    @call
    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Stream]:
        return (self._object(Stream(7000 + len(self.calls))),)

    @call
    def cudaStreamDestroy(self, stream: Stream) -> None:
        self.objects.remove(stream)

    @call
    def cudaStreamSynchronize(self, stream: Stream) -> None:
        stream.finish()

    @call
    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Event]:
        assert flags == 3, "a thread that waits must sleep"
        return (self._object(Event()),)

    @call
    def cudaEventDestroy(self, event: Event) -> None:
        self.objects.remove(event)

    @call
    def cudaEventRecord(self, event: Event, stream: Stream) -> None:
        event.stream = stream

    @call
    def cudaEventSynchronize(self, event: Event) -> None:
        assert event.stream is not None
        event.stream.finish()

    @call
    def cudaStreamBeginCapture(self, stream: Stream, mode: cudaStreamCaptureMode) -> None:
        assert stream.captured is None
        stream.captured = []

    @call
    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Graph]:
        work, stream.captured = stream.captured, None
        assert work is not None
        return (self._object(Graph(work)),)

    @call
    def cudaGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Graph]:
        return (self._object(Graph(graph.work)),)

    @call
    def cudaGraphDestroy(self, graph: Graph) -> None:
        self.objects.remove(graph)

    @call
    def cudaGraphExecDestroy(self, graph: Graph) -> None:
        self.objects.remove(graph)

    @call
    def cudaGraphLaunch(self, graph: Graph, stream: Stream) -> None:
        assert graph in self.objects
        for work in graph.work:
            stream.put(work)

    @call
    def cudaGetLastError(self) -> None:
        """Clears it."""

    def cudaGetErrorName(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return (cudaError_t.cudaSuccess, error.name.encode())

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return (cudaError_t.cudaSuccess, b"as CUDA words it")

    def _object(self, item: Any) -> Any:
        self.objects.add(item)
        return item
