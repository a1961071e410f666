"""A TensorRT whose kernels are ONNX Runtime's, on the memory of `FakeCudart`.

What `execute_async_v3` would run on a GPU is the same ONNX graph on the CPU, with shapes and
addresses as they were when it was enqueued. It refuses what TensorRT refuses: shapes outside of the
profile, tensors without an address, an aliased output elsewhere than its input, and it refuses one
address for two tensors that are not aliased, where the real one computes something else.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort

from edge_mm_runtime.engines.profiles import Profile
from tests.runtime.engines.fake_cuda import FakeCudart

_NAMES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(int64)": ("INT64", np.int64),
    "tensor(int32)": ("INT32", np.int32),
}
SCRATCH = 4096


def plan_of(graph: Path, profiles: tuple[Profile, ...]) -> bytes:
    """What stands in for a serialised engine."""
    given = msgspec.to_builtins(profiles)
    return json.dumps({"onnx": str(graph), "profiles": given}).encode()


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class ILogger:
    Severity = Severity


class Strategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class Specialisation(enum.Enum):
    LAZY = 0
    EAGER = 1


class IRuntimeConfig:
    """Of TensorRT-RTX."""

    dynamic_shapes_kernel_specialization_strategy = Specialisation.LAZY
    _strategy = Strategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Strategy) -> None:
        self._strategy = strategy


class IExecutionContext:
    """With `_enqueued`, how often it was called."""

    def __init__(self, engine: ICudaEngine, config: Any) -> None:
        self._engine, self._config = engine, config
        self._profile: int | None = None if engine._profiles else 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0
        self._enqueued = 0

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._engine._cudart.stream(stream_handle)
        self._profile = profile_index
        return profile_index < len(self._engine._profiles)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._engine._cudart.memory(memory, size)
        self._scratch = size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        span = self._engine._profiles[self._profile or 0].shapes[name]
        inside = all(a <= n <= b for a, n, b in zip(span.least, shape, span.greatest, strict=True))
        if inside:
            self._shapes[name] = tuple(shape)
        return inside or self._refuse(f"{name} {shape} is outside of profile {self._profile}")

    def infer_shapes(self) -> list[str]:
        wanted = (name for name in self._engine._open_inputs())
        return [name for name in wanted if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        sizes: dict[str, int] = {}
        for given, shape in self._shapes.items():
            sizes.update(zip(self._engine._nodes[given].shape, shape, strict=True))
        return tuple(sizes.get(n, n) for n in self._engine._nodes[name].shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._nodes:
            return self._refuse(f"no tensor {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, cudart = self._engine, self._engine._cudart
        missing = engine._nodes.keys() - self._addresses.keys()
        if missing or self.infer_shapes() or self._profile is None or self._scratch < SCRATCH:
            return self._refuse(f"not ready: {sorted(missing)} {self.infer_shapes()}")
        for name in engine._outputs:
            same = [n for n in engine._inputs if self._addresses[n] == self._addresses[name]]
            if same != ([engine._alias(name)] if engine._alias(name) else []):
                return self._refuse(f"output {name} has the address of {same}")
        shapes = {name: self.get_tensor_shape(name) for name in engine._nodes}
        addresses = dict(self._addresses)
        self._enqueued += 1

        def array(name: str) -> np.ndarray:
            dtype = np.dtype(_NAMES[engine._nodes[name].type][1])
            size = int(np.prod(shapes[name])) * dtype.itemsize
            return cudart.memory(addresses[name], size).view(dtype).reshape(shapes[name])

        def kernels() -> None:
            outputs = engine._session.run(
                engine._outputs, {name: array(name) for name in engine._inputs}
            )
            for name, value in zip(engine._outputs, outputs, strict=True):
                array(name)[...] = value

        cudart.stream(stream_handle).put(kernels)
        return True

    def _refuse(self, why: str) -> bool:
        self._engine._log.log(Severity.ERROR, why)
        return False


class ICudaEngine:
    """Of TensorRT 10.3: it knows of no aliases."""

    def __init__(self, plan: bytes, cudart: FakeCudart, log: Any) -> None:
        given = json.loads(plan)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(given["onnx"], options)
        self._profiles = msgspec.convert(given["profiles"], tuple[Profile, ...])
        self._cudart, self._log = cudart, log
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        self._nodes = {node.name: node for node in nodes}
        self._contexts: list[IExecutionContext] = []

    @property
    def num_io_tensors(self) -> int:
        return len(self._nodes)

    def get_tensor_name(self, index: int) -> str:
        return list(self._nodes)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name="INPUT" if name in self._inputs else "OUTPUT")

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=_NAMES[self._nodes[name].type][0])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(n if isinstance(n, int) else -1 for n in self._nodes[name].shape)

    def get_tensor_location(self, name: str) -> Any:
        return SimpleNamespace(name="DEVICE")

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH // (1 + profile_index)

    def create_execution_context(self, config: Any) -> IExecutionContext:
        assert getattr(config, "_strategy", config) is Strategy.USER_MANAGED
        self._contexts.append(IExecutionContext(self, config))
        return self._contexts[-1]

    def _open_inputs(self) -> list[str]:
        return [name for name in self._inputs if -1 in self.get_tensor_shape(name)]

    def _alias(self, name: str) -> str | None:
        aliased = getattr(self, "get_aliased_input_tensor", lambda name: None)
        return aliased(name) or None


class NewEngine(ICudaEngine):
    """Of TensorRT 10.15 and later, where TensorScatter updates the cache in place."""

    def get_aliased_input_tensor(self, name: str) -> str | None:
        past = name.replace("present", "past_key_values")
        return past if past != name and past in self._inputs else None


class RtxEngine(NewEngine):
    """Of TensorRT-RTX."""

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()


class FakeTensorrt:
    """The module; `engines` are those that were loaded."""

    ILogger = ILogger
    ExecutionContextAllocationStrategy = Strategy
    __version__ = "10.3.0"

    def __init__(self, cudart: FakeCudart, engine: type[ICudaEngine]) -> None:
        self.engines: list[ICudaEngine] = []
        if engine is RtxEngine:
            self.DynamicShapesKernelSpecializationStrategy = Specialisation
        module = self

        class Runtime:
            def __init__(self, log: Any) -> None:
                self._log = log

            def deserialize_cuda_engine(self, plan: Any) -> ICudaEngine | None:
                data = bytes(memoryview(plan))
                if not data.startswith(b"{"):
                    self._log.log(Severity.ERROR, "magicTag is wrong")
                    return None
                module.engines.append(engine(data, cudart, self._log))
                return module.engines[-1]

        self.Runtime = Runtime


class Network:
    """The inputs of an ONNX graph as a parsed network, for its profiles."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._inputs = [_Input(value) for value in model.graph.input]
        self.num_inputs = len(self._inputs)

    def get_input(self, index: int) -> _Input:
        return self._inputs[index]


class _Input:
    is_shape_tensor = False

    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        self._dimensions = value.type.tensor_type.shape.dim
        self.shape = tuple(-1 if d.dim_param else d.dim_value for d in self._dimensions)

    def get_dimension_name(self, axis: int) -> str:
        return str(self._dimensions[axis].dim_param)
