"""Runners: one graph, `dict[str, ndarray]` in and out.

A runner is a context manager that checks names, dtypes and shapes of what it is given. Tensors
that stay on the device between calls (the key/value cache) are its `state`: each is one buffer,
bound once as an input and as an output, and never copied.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.extras import require

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16: numpy has no such type

Provider = Literal["cpu", "cuda"]
_PROVIDERS: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SPIN_US = 100
"""How long a thread of the pool waits awake for more work before it sleeps.

Shipped bundle, 2 cores shared with other programs, 20 alternated rounds: with ONNX Runtime's own
setting each pool stays awake for tens of milliseconds after a run, so the vision graph's threads
take the cores from the decoder's. A second question took 0.32 of the time with 100 us, 0.30 without
any waiting, 0.55 with waiting up to the end of a run (session.force_spinning_stop); a new frame
0.63, 0.64 and 0.87 of it. CPU use in the 3 s after a question: 0.6 % before, 0.05 % now.
"""

_SMALL = 64
"""Elements up to which an input is written where the last one is bound, instead of bound anew."""

_DISABLED = ["QDQS8ToU8Transformer"]
"""With session.x64quantprecision it gives weights that are dequantised by channel or block a single
zero point, and ONNX Runtime 1.32 then refuses to run them."""


class TensorSpec(NamedTuple):
    """A graph input or output; a dimension is None where the graph leaves it open."""

    dtype: type[np.generic]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype.__name__}{['?' if n is None else n for n in self.shape]}"

    def accepts(self, array: Array) -> bool:
        """Whether an array has this dtype and a shape that fits."""
        return (
            array.dtype == self.dtype
            and array.ndim == len(self.shape)
            and all(n is None or n == m for n, m in zip(self.shape, array.shape, strict=True))
        )


class Runner(Protocol):
    """What a Session needs of an engine."""

    inputs: dict[str, TensorSpec]  # without the state
    outputs: dict[str, TensorSpec]

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once; the outputs are the caller's own."""

    def close(self) -> None:
        """Give the engine's memory back."""


class OnnxRunner:
    """A graph on ONNX Runtime.

    state maps an input to the output that updates it and the buffer's shape, e.g.
    {"past_key_values.0.key": ("present.0.key", (1, 2, 256, 64))}; buffers start as zeros and stay
    on the provider's device. BundleError where the provider cannot run the graph, or is not there.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        state: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
        *,
        provider: Provider = "cpu",
    ) -> None:
        ort = require("onnxruntime", "cpu" if provider == "cpu" else "gpu")
        self.path = path
        self._device = provider
        session = _open(ort, path, _options(ort, threads, provider), provider)
        self._session: Any = session
        self._binding: Any = session.io_binding()
        self._bound: dict[str, Array] = {}  # the inputs that are bound now; small ones are copies
        self._written: dict[str, Array] = {}  # outputs of a known shape, the last run's
        self._state: list[Any] = []  # keeps the buffers alive
        self._memory: list[Array] = []  # and what is behind those that do not own theirs
        every_input = {node.name: node for node in session.get_inputs()}
        every_output = {node.name: node for node in session.get_outputs()}
        for name, (updated, shape) in (state or {}).items():
            if name not in every_input or updated not in every_output:
                raise BundleError(f"{path} has no state {name} -> {updated}: export it again")
            buffer = self._zeros(ort, every_input[name], shape)
            self._binding.bind_ortvalue_input(name, buffer)
            self._binding.bind_ortvalue_output(updated, buffer)
            self._state.append(buffer)
        updated_names = {updated for updated, _ in (state or {}).values()}
        self.inputs = {k: _spec(v) for k, v in every_input.items() if k not in (state or {})}
        self.outputs = {k: _spec(v) for k, v in every_output.items() if k not in updated_names}
        # Bound once a run: what a run leaves bound has that run's shape.
        self._open = [name for name, spec in self.outputs.items() if None in spec.shape]
        for name, spec in self.outputs.items():
            known = [size for size in spec.shape if size is not None]
            if provider == "cpu" and len(known) == len(spec.shape):
                self._written[name] = np.zeros(known, spec.dtype)
                value = ort.OrtValue.ortvalue_from_numpy(self._written[name])
                self._binding.bind_ortvalue_output(name, value)
            else:
                self._binding.bind_output(name, "cpu")

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once; the outputs are the caller's own.

        On cuda an array that was given to the last run as well is not copied there again: give
        another one for another content.
        """
        check_names(self, inputs, closed=self._session is None)
        for name, array in inputs.items():
            if array is not self._bound.get(name):
                self._take(name, array)
        for name in self._open:
            self._binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(self._binding)
        if len(self._written) == len(self.outputs):
            return {name: array.copy() for name, array in self._written.items()}
        # Values come in bind order, so those of the state come first.
        values = self._binding.get_outputs()[len(self._state) :]
        return {
            name: np.array(value.numpy()) for name, value in zip(self.outputs, values, strict=True)
        }

    def close(self) -> None:
        """Give the engine's memory back."""
        self._binding = self._session = None
        self._state, self._memory, self._bound, self._written = [], [], {}, {}

    def __enter__(self) -> OnnxRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _zeros(self, ort: Any, node: Any, shape: tuple[int, ...]) -> Any:
        """A buffer of a graph input's type."""
        if node.type != "tensor(bfloat16)":
            zeros = np.zeros(shape, _spec(node).dtype)
            return ort.OrtValue.ortvalue_from_numpy(zeros, self._device)
        if self._device != "cpu":
            raise BundleError(
                f"{self.path}: a bf16 cache on {self._device} is not supported: export with "
                "--target cuda"
            )
        self._memory.append(np.zeros(shape, np.uint16))
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(self._memory[-1], _BFLOAT16)

    def _take(self, name: str, array: Array) -> None:
        """Bind an input that is not bound, or write it where one of its shape is."""
        bound, small = self._bound.get(name), self._device == "cpu" and array.size <= _SMALL
        if small and bound is not None and (bound.shape, bound.dtype) == (array.shape, array.dtype):
            bound[...] = array
            return
        check_input(self, name, array)
        array = array.copy() if small else np.ascontiguousarray(array)
        self._binding.bind_cpu_input(name, array)
        self._bound[name] = array


class _OfAGraph(Protocol):
    path: Path
    inputs: dict[str, TensorSpec]


def check_names(runner: _OfAGraph, inputs: Mapping[str, Array], *, closed: bool) -> None:
    """Raise ValueError where a runner is closed, or is given other inputs than its own."""
    if closed:
        raise ValueError(f"the runner of {runner.path.name} is closed")
    if inputs.keys() != runner.inputs.keys():
        raise ValueError(
            f"{runner.path.name} takes {sorted(runner.inputs)}, it was given {sorted(inputs)}"
        )


def check_input(runner: _OfAGraph, name: str, array: Array) -> None:
    """Raise ValueError where an input has another dtype or shape than the graph takes."""
    spec = runner.inputs[name]
    if not spec.accepts(array):
        raise ValueError(
            f"{runner.path.name}: input {name} is {spec}, "
            f"it was given {array.dtype}{list(array.shape)}"
        )


class WrappedRunner:
    """A runner that passes everything on, for those that look at what goes by."""

    def __init__(self, runner: Runner) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._runner = runner

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once."""
        return self._runner.run(inputs)

    def close(self) -> None:
        """Give the engine's memory back."""
        self._runner.close()


class CountedRunner(WrappedRunner):
    """A runner that tells how often it was run since `passes` was set to 0."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.passes = 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once."""
        self.passes += 1
        return super().run(inputs)


def available_cores() -> int:
    """Cores that this process may use (containers and taskset grant fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise BundleError(f"tensor {node.name} has type {node.type}, which no graph of ours uses")
    shape = tuple(size if isinstance(size, int) else None for size in node.shape)
    return TensorSpec(_DTYPES[node.type], shape)


def _options(ort: ModuleType, threads: int | None, provider: Provider) -> Any:
    """Settings for a robot: quiet between questions, and no memory that grows with their number."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1  # the operators of a graph run one after the other
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    # A plan would be kept for each length of a prompt: 9 MB after 280 prompts of 150 lengths, and
    # the same CPU time. The arena itself keeps what the longest pass took, and no more.
    options.enable_mem_pattern = False
    # Nor a plan of which tensors share a buffer: it compares each with all before it wherever a
    # length is left open. A w8a8 decoder of 1369 nodes opened in 193 ms of CPU time instead of 791;
    # the arena gives a freed buffer out again by itself: as fast, the same bits, as much memory.
    options.enable_mem_reuse = provider != "cpu"
    # x86 processors without VNNI saturate sums of unsigned and signed bytes: there, and only there,
    # ONNX Runtime then makes the weights of 8-bit products unsigned as it loads them.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level = 3
    return options


def _open(ort: ModuleType, path: Path, options: Any, provider: Provider) -> Any:
    """A session on a provider; ONNX Runtime alone would take another one without a word."""
    asked, cpu = _PROVIDERS[provider], _PROVIDERS["cpu"]
    given = ort.get_available_providers()
    session = None
    if asked in given:
        wanted = [asked] if asked == cpu else [asked, cpu]
        try:
            session = ort.InferenceSession(
                str(path), options, providers=wanted, disabled_optimizers=_DISABLED
            )
        except Exception as error:  # onnxruntime's own classes share no base of theirs
            reason = str(error).strip().splitlines()[0]
            raise BundleError(f"onnxruntime {ort.__version__} refuses {path}: {reason}") from None
        given = session.get_providers()
    if session is None or asked not in given:
        raise BundleError(
            f"{path}: asked for {asked}, onnxruntime {ort.__version__} gives {', '.join(given)}: "
            "pip uninstall onnxruntime, pip install 'edge-mm[gpu]', and see that the NVIDIA driver "
            "and the CUDA and cuDNN libraries it names are there; or ask for device cpu"
        )
    return session
