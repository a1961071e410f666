"""The TensorRT runner: an engine with the contract of `edge_mm_runtime.runner.Runner`.

All memory is allocated when it is opened, at the greatest shapes of the engine's profiles; a pass
allocates nothing on the device. The two contexts (prefill, decode) never run at the same time, so
they share their scratch memory, their buffers and one stream.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.engines.binding import (
    Shape,
    Tensor,
    cache_state,
    engine_tensors,
    plan_bindings,
)
from edge_mm_runtime.engines.buffers import Memory
from edge_mm_runtime.engines.cuda import Cuda, import_cudart
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.execution import Execution, Lane
from edge_mm_runtime.engines.library import Library
from edge_mm_runtime.engines.locate import Part, find_engines
from edge_mm_runtime.engines.log import Messages, logger
from edge_mm_runtime.engines.profiles import REPLAYED, Profile
from edge_mm_runtime.runner import Array, Arrays, TensorSpec, check_input, check_names


def open_engine(bundle: Bundle, part: Part, target: str | None = None) -> TensorrtRunner:
    """The engine of a part of the bundle that was built for this machine, ready to run.

    target: whose graphs it was built from; None: whatever is there, see `TensorrtRunner.target`.
    EngineError or MissingExtraError say what is missing or differs, and the command that mends it.
    """
    found = find_engines(bundle, target, (part,))
    state = cache_state(bundle.manifest.decoder) if part == "decoder" else {}
    return TensorrtRunner(
        found.library,
        import_cudart(),
        found.plan(part),
        found.manifest.plans[part].profiles,
        state,
        found.manifest.target,
    )


class TensorrtRunner:
    """An engine on the GPU; a context manager, to be used from one thread at a time.

    inputs, outputs  what `run` takes and gives, without the state
    target           of the graphs that the engine was built from
    """

    def __init__(
        self,
        library: Library,
        cudart: Any,
        plan: Path,
        profiles: Sequence[Profile] = (),
        state: Mapping[str, str] | None = None,
        target: str = "tensorrt",
    ) -> None:
        """Read the plan and allocate everything; what fails gives back what was allocated."""
        self.path, self.target = plan, target
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self._executions: list[Execution] = []
        self._owned = contextlib.ExitStack()  # given back in reverse order
        self._turn, self._swaps = 0, False
        try:
            self._open(library, Cuda(cudart), profiles, state or {})
        except BaseException:
            self.close()
            raise

    @property
    def graph_error(self) -> str | None:
        """Why decoding is not replayed from a CUDA graph; None: it is, or is about to be."""
        return next((e.graph_error for e in self._executions if e.graph_error), None)

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the engine once; the outputs are the caller's own."""
        check_names(self, inputs, closed=not self._executions)
        for name, array in inputs.items():
            check_input(self, name, array)
        shapes = {name: array.shape for name, array in inputs.items()}
        execution = next((each for each in self._executions if each.accepts(shapes)), None)
        if execution is None:
            raise ValueError(
                f"{self.path.name}: inputs {shapes} are outside of every profile that it was built "
                f"for: {'; '.join(map(str, self._executions))}"
            )
        outputs = execution.run(inputs, self._turn)
        if self._swaps:
            self._turn = 1 - self._turn
        return outputs

    def close(self) -> None:
        """Give everything back: graphs and contexts, the engine, memory, the stream."""
        # After an error of the device each of these fails as well; what was wrong has been told.
        with contextlib.suppress(EngineError):
            self._owned.close()

    def __enter__(self) -> TensorrtRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self, library: Library, cuda: Cuda, profiles: Sequence[Profile], state: Mapping[str, str]
    ) -> None:
        cuda.start()
        lane, messages = Lane(cuda, self._owned), Messages()
        engine = _read_engine(library, self.path, messages)
        ranges: list[Profile | None] = [*profiles] or [None]
        contexts = [
            _context(library, engine, index, profile, lane, messages)
            for index, profile in enumerate(ranges)
        ]
        tensors = engine_tensors(engine)
        open_outputs = _open_outputs(tensors, contexts, profiles)
        bindings = plan_bindings(tensors, profiles, state, open_outputs)
        memory = Memory(cuda, lane.stream, bindings, self._owned)
        scratch = max(
            engine.get_device_memory_size_for_profile_v2(index) for index in range(len(contexts))
        )
        address = memory.device(scratch)
        for context in contexts:
            context.set_device_memory(address, scratch)
        self._owned.callback(self._close_executions)
        # The narrowest profile first: one token is for decode, though prefill takes it too.
        for context, profile in reversed(list(zip(contexts, ranges, strict=True))):
            self._executions.append(Execution(context, profile, memory, lane, messages))
        self._swaps = any(not each.in_place for each in memory.state)
        for binding in bindings:
            if binding.spec is not None:
                border = self.inputs if binding.role == "input" else self.outputs
                border[binding.name] = binding.spec

    def _close_executions(self) -> None:
        while self._executions:
            self._executions.pop().close()


def _read_engine(library: Library, path: Path, messages: Messages) -> Any:
    """Deserialise a plan; it is mapped, so a Jetson's memory need not hold it twice."""
    trt = library.module
    log = logger(trt, messages)
    try:
        runtime = trt.Runtime(log)
    except TypeError:  # pybind11's word for a null pointer: no CUDA, no driver
        raise EngineError(f"{library} cannot start here: {messages.reasons()}") from None
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
            engine = runtime.deserialize_cuda_engine(plan)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise EngineError(f"cannot read {path}: {error}: run `edge-mm build` again") from None
    if engine is None:
        raise EngineError(
            f"{library} cannot load {path}: {messages.reasons()}: run `edge-mm build` again"
        )
    return engine


def _context(
    library: Library,
    engine: Any,
    index: int,
    profile: Profile | None,
    lane: Lane,
    messages: Messages,
) -> Any:
    """An execution context without memory of its own, set to a profile."""
    trt = library.module
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    specialise = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if specialise is None:
        context = engine.create_execution_context(strategy)
    else:
        # TensorRT-RTX compiles kernels when it runs. A graph would keep the general ones that it
        # begins with, so those of the captured shape are asked for at once.
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if profile is not None and profile.name == REPLAYED:
            config.dynamic_shapes_kernel_specialization_strategy = specialise.EAGER
        context = engine.create_execution_context(config)
    if context is None:
        raise EngineError(f"{library} makes no execution context: {messages.reasons()}")
    if profile is not None and not context.set_optimization_profile_async(index, lane.handle):
        raise EngineError(f"{library} refuses profile {profile.name}: {messages.reasons()}")
    return context


def _open_outputs(
    tensors: Sequence[Tensor], contexts: Sequence[Any], profiles: Sequence[Profile]
) -> dict[str, Shape]:
    """The greatest shapes of outputs with open dimensions, which TensorRT computes."""
    found: dict[str, Shape] = {}
    names = [tensor.name for tensor in tensors if not tensor.is_input and -1 in tensor.shape]
    if not names or not profiles:
        return found
    for context, profile in zip(contexts, profiles, strict=True):
        for name, span in profile.shapes.items():
            context.set_input_shape(name, span.greatest)
        for name in names:
            shape = tuple(context.get_tensor_shape(name))
            found[name] = tuple(map(max, found.get(name, shape), shape))
    return found
