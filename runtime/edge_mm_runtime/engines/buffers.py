"""The memory of a runner, by its binding plan: allocated once, given back once."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from edge_mm_runtime.engines.binding import Binding, Shape
from edge_mm_runtime.engines.cuda import Cuda
from edge_mm_runtime.runner import Array

_LEAST = 256  # bytes: CUDA gives no address for none


class Buffer:
    """An input or output: pinned memory for the caller, and its copy on the device.

    What the pinned memory holds is what the device has, unless `held` is None.
    """

    def __init__(self, binding: Binding, host: int, device: int) -> None:
        assert binding.spec is not None  # state has no Buffer
        self.name, self.dtype = binding.name, np.dtype(binding.spec.dtype)
        self.host, self.device = host, device
        self.greatest = binding.shape
        self.held: Shape | None = None
        # numpy sees the pinned memory itself; it must not outlive it.
        pinned: Any = (ctypes.c_uint8 * binding.bytes).from_address(host)
        self._memory: Array = np.frombuffer(pinned, np.uint8)

    @property
    def on_host(self) -> bool:
        """Whether TensorRT reads or writes the pinned memory itself."""
        return self.host == self.device

    def size(self, shape: Shape) -> int:
        """Bytes of a shape."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize

    def view(self, shape: Shape) -> Array:
        """The pinned memory as an array; valid until the runner is closed."""
        array: Array = self._memory[: self.size(shape)].view(self.dtype).reshape(shape)
        return array

    def holds(self, array: Array) -> bool:
        """Whether the device has these values already."""
        return self.held == array.shape and np.array_equal(self.view(array.shape), array)

    def write(self, array: Array) -> None:
        """Put an array into the pinned memory."""
        np.copyto(self.view(array.shape), array)
        self.held = array.shape


class State:
    """A tensor that stays on the device, as zeros at first.

    `addresses` are those of input and output, the same one where TensorRT updates in place;
    otherwise they swap after every pass.
    """

    def __init__(self, name: str, updated: str, addresses: tuple[int, int]) -> None:
        self.name, self.updated = name, updated
        self.addresses = addresses

    @property
    def in_place(self) -> bool:
        """Whether input and output are one buffer."""
        return self.addresses[0] == self.addresses[1]

    def bound(self, turn: int) -> dict[str, int]:
        """The addresses of input and output in an even (0) or odd (1) pass."""
        return {self.name: self.addresses[turn], self.updated: self.addresses[1 - turn]}


class Memory:
    """Every buffer of a plan; `owned` frees them when it is closed."""

    def __init__(
        self, cuda: Cuda, stream: Any, bindings: Sequence[Binding], owned: ExitStack
    ) -> None:
        self.inputs: dict[str, Buffer] = {}
        self.outputs: dict[str, Buffer] = {}
        self.state: list[State] = []
        self._cuda, self._owned = cuda, owned
        for binding in bindings:
            if binding.role == "state":
                continue
            buffer = self._buffer(binding)
            (self.inputs if binding.role == "input" else self.outputs)[binding.name] = buffer
        for binding in bindings:
            if binding.role == "state" and binding.of != binding.name:
                first = self._zeros(binding.bytes, stream)
                second = first if binding.in_place else self._zeros(binding.bytes, stream)
                self.state.append(State(str(binding.of), binding.name, (first, second)))
        cuda.synchronize(stream)

    def device(self, size: int) -> int:
        """Address of memory on the device."""
        address = self._cuda.malloc(max(size, _LEAST))
        self._owned.callback(self._cuda.free, address)
        return address

    def _buffer(self, binding: Binding) -> Buffer:
        host = self._cuda.malloc_host(max(binding.bytes, _LEAST))
        self._owned.callback(self._cuda.free_host, host)
        device = host if binding.place == "host" else self.device(binding.bytes)
        return Buffer(binding, host, device)

    def _zeros(self, size: int, stream: Any) -> int:
        address = self.device(size)
        self._cuda.zero(address, size, stream)
        return address
