"""One execution context of an engine, with one optimisation profile: where a pass is run.

A pass is: inputs to the device, TensorRT's kernels, outputs to the host, all in one stream. The
profile `decode` captures it in a CUDA graph and from then on launches it as a whole, which spares
the CPU hundreds of kernel launches a token. That is legal because every pass is the same to the
GPU: one token has one shape; the cache has a fixed capacity and fixed addresses; where the token
stands and where its keys are written (position_ids, write_indices) are values in device memory,
read when the graph runs. Only the picture can come in another shape: then it is captured anew.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_mm_runtime.engines.binding import Shape
from edge_mm_runtime.engines.buffers import Memory
from edge_mm_runtime.engines.cuda import Cuda
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.log import Messages
from edge_mm_runtime.engines.profiles import REPLAYED, Profile
from edge_mm_runtime.runner import Array, Arrays

_log = logging.getLogger("edge_mm")


class Lane:
    """The one stream of a runner, and the event that tells when it is done."""

    def __init__(self, cuda: Cuda, owned: contextlib.ExitStack) -> None:
        self.cuda = cuda
        self.stream = cuda.stream()
        owned.callback(cuda.destroy_stream, self.stream)
        self._done = cuda.event()
        owned.callback(cuda.destroy_event, self._done)

    @property
    def handle(self) -> int:
        """The stream as TensorRT takes it."""
        return int(self.stream)

    def wait(self) -> None:
        """Sleep until everything in the stream is done."""
        self.cuda.wait(self._done, self.stream)


class Execution:
    """A context that is ready to run; `profile` is None where all shapes are fixed.

    graph_error  why passes that could be replayed from a graph are not, if so
    """

    def __init__(
        self, context: Any, profile: Profile | None, memory: Memory, lane: Lane, messages: Messages
    ) -> None:
        self.graph_error: str | None = None
        self._context, self._memory, self._messages = context, memory, messages
        self._lane, self._cuda = lane, lane.cuda
        self._spans = {} if profile is None else profile.shapes
        self._captures = profile is not None and profile.name == REPLAYED
        self._shapes: dict[str, Shape] | None = None  # of the inputs at the last pass
        self._outputs: dict[str, Shape] = {}
        self._enqueued = False  # with these shapes
        self._graphs: dict[int, Any] = {}  # by turn
        self._turn: int | None = None  # that the state is bound for
        varying = {name for name, span in self._spans.items() if span.least != span.greatest}
        self._varying = [b for name, b in memory.inputs.items() if name in varying]
        self._constant = [
            (b, b.size(self._spans[name].greatest if name in self._spans else b.greatest))
            for name, b in memory.inputs.items()
            if name not in varying
        ]
        buffers = (*memory.inputs.values(), *memory.outputs.values())
        for buffer in buffers:
            self._bind(buffer.name, buffer.device)
        on_host = [buffer.name for buffer in buffers if buffer.on_host]
        if self._captures and on_host:  # a graph would keep what they were when it was captured
            self._give_up(f"TensorRT reads {', '.join(on_host)} on the host")

    def __str__(self) -> str:
        """The profile's range."""
        told = (f"{k} {list(v.least)} to {list(v.greatest)}" for k, v in self._spans.items())
        return ", ".join(told)

    def accepts(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether inputs of these shapes are in the profile's range."""
        return all(
            all(
                a <= n <= b for a, n, b in zip(span.least, shapes[name], span.greatest, strict=True)
            )
            for name, span in self._spans.items()
        )

    def run(self, inputs: Mapping[str, Array], turn: int) -> Arrays:
        """One pass; `turn` says which of two state buffers is read, see `State`."""
        try:
            self._set_shapes({name: inputs[name].shape for name in self._spans})
            for buffer, _ in self._constant:
                buffer.write(inputs[buffer.name])
            for buffer in self._varying:
                array = inputs[buffer.name]
                if not buffer.holds(array):
                    buffer.write(array)
                    self._to_device(buffer.device, buffer.host, buffer.size(array.shape))
            self._start(turn)
            self._lane.wait()
        except BaseException:  # Ctrl-C too: nothing may be under way when the buffers are reused
            with contextlib.suppress(EngineError):
                self._cuda.synchronize(self._lane.stream)
            for buffer in self._memory.inputs.values():
                buffer.held = None
            raise
        outputs = self._memory.outputs
        return {name: np.array(outputs[name].view(shape)) for name, shape in self._outputs.items()}

    def close(self) -> None:
        """Give graphs and context back."""
        self._drop_graphs()
        self._context = None

    def _set_shapes(self, shapes: dict[str, Shape]) -> None:
        """Tell TensorRT shapes other than the last pass's; graphs of those are worth nothing."""
        if shapes == self._shapes:
            return
        self._shapes, self._enqueued = None, False
        self._drop_graphs()
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise self._failed(f"set_input_shape({name!r}, {shape})")
        unknown = self._context.infer_shapes()
        if unknown:
            raise self._failed(f"infer_shapes, which misses {', '.join(unknown)},")
        self._outputs = {
            name: tuple(self._context.get_tensor_shape(name)) for name in self._memory.outputs
        }
        self._shapes = shapes

    def _start(self, turn: int) -> None:
        """Put a pass into the stream: as a graph, if there can be one."""
        # TensorRT wants one pass after a change of shape before it is captured.
        if turn not in self._graphs and self._captures and self._enqueued:
            self._capture(turn)
        if turn in self._graphs:
            self._cuda.launch(self._graphs[turn], self._lane.stream)
            return
        self._enqueue(turn)
        self._enqueued = True

    def _capture(self, turn: int) -> None:
        try:
            self._graphs[turn] = self._cuda.capture(self._lane.stream, lambda: self._enqueue(turn))
        except EngineError as error:
            self._give_up(str(error))

    def _enqueue(self, turn: int) -> None:
        if turn != self._turn:
            for state in self._memory.state:
                for name, address in state.bound(turn).items():
                    self._bind(name, address)
            self._turn = turn
        for buffer, size in self._constant:
            self._to_device(buffer.device, buffer.host, size)
        if not self._context.execute_async_v3(self._lane.handle):
            raise self._failed("execute_async_v3")
        for name, shape in self._outputs.items():
            buffer = self._memory.outputs[name]
            if not buffer.on_host:
                size = buffer.size(shape)
                self._cuda.to_host(buffer.host, buffer.device, size, self._lane.stream)

    def _to_device(self, device: int, host: int, size: int) -> None:
        if device != host:
            self._cuda.to_device(device, host, size, self._lane.stream)

    def _bind(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise self._failed(f"set_tensor_address({name!r})")

    def _give_up(self, reason: str) -> None:
        self._captures, self.graph_error = False, reason
        _log.warning("decoding without a CUDA graph, each kernel is launched apart: %s", reason)

    def _drop_graphs(self) -> None:
        while self._graphs:
            self._cuda.destroy_graph(self._graphs.popitem()[1])

    def _failed(self, call: str) -> EngineError:
        return EngineError(f"TensorRT's {call} failed: {self._messages.reasons()}")
