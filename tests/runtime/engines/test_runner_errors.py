"""What the TensorRT runner says when something is wrong, and that it gives everything back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_mm_runtime.decoder import decoder_inputs
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library
from edge_mm_runtime.engines.runner import TensorrtRunner
from tests.runtime.engines.fake_cuda import cudaError_t
from tests.runtime.engines.fake_machine import PROMPT, Device, picture
from tests.runtime.engines.fake_tensorrt import IExecutionContext


def test_wrong_inputs_are_told(device: Callable[..., Device]) -> None:
    machine = device()
    inputs = decoder_inputs("tensorrt", 0, PROMPT, picture(0))
    with machine.open() as runner:
        with pytest.raises(ValueError, match=r"decoder.engine takes \['image_embeds', 'input_ids'"):
            runner.run({})
        with pytest.raises(ValueError, match=r"input image_embeds is float32\['\?', 64\], .*int64"):
            runner.run({**inputs, "image_embeds": inputs["input_ids"]})
        long = decoder_inputs("tensorrt", 0, list(range(49)), picture(0))
        with pytest.raises(ValueError, match=r"outside of every profile .*\[1, 1\] to \[1, 48\]"):
            runner.run(long)
        with pytest.raises(ValueError, match="outside of every profile"):
            runner.run({**inputs, "image_embeds": picture(0)[:0]})
    with pytest.raises(ValueError, match=r"the runner of decoder.engine is closed"):
        runner.run(inputs)


@pytest.mark.parametrize(
    "name",
    [
        *("cudaSetDevice", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags"),
        *("cudaMalloc", "cudaHostAlloc", "cudaMemsetAsync", "cudaStreamSynchronize"),
    ],
)
def test_what_fails_while_opening_gives_everything_back(
    name: str, device: Callable[..., Device]
) -> None:
    machine = device()
    machine.cudart.failing[name] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(EngineError, match=rf"^{name}.* failed: cudaErrorMemoryAllocation \(as"):
        machine.open()
    assert machine.cudart.leaks == 0


@pytest.mark.parametrize("name", ["cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize"])
def test_a_pass_that_fails_is_told_and_can_be_repeated(
    name: str, device: Callable[..., Device]
) -> None:
    machine = device()
    inputs = decoder_inputs("tensorrt", 0, PROMPT, picture(0))
    with machine.open() as runner:
        expected = runner.run(inputs)["logits"]
        other = decoder_inputs("tensorrt", 0, PROMPT[::-1], picture(1))
        machine.cudart.failing[name] = cudaError_t.cudaErrorInvalidValue
        with pytest.raises(EngineError, match=f"^{name} failed: cudaErrorInvalidValue"):
            runner.run(other)
        machine.cudart.failing.clear()
        np.testing.assert_array_equal(runner.run(inputs)["logits"], expected)


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ("set_tensor_address", r"set_tensor_address\('input_ids'\) failed: no memory"),
        ("set_optimization_profile_async", "refuses profile prefill: no memory"),
    ],
)
def test_what_tensorrt_refuses_while_opening_is_told(
    method: str, line: str, device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of it gives False and leaves the reason in the log."""
    machine = device()
    refuse = lambda self, *_: self._refuse("no memory")  # noqa: E731
    monkeypatch.setattr(IExecutionContext, method, refuse)
    with pytest.raises(EngineError, match=line):
        machine.open()
    assert machine.cudart.leaks == 0


@pytest.mark.parametrize("method", ["set_input_shape", "infer_shapes", "execute_async_v3"])
def test_what_tensorrt_refuses_in_a_pass_is_told(
    method: str, device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = device()
    answer = ["input_ids"] if method == "infer_shapes" else False
    with machine.open() as runner:
        monkeypatch.setattr(IExecutionContext, method, lambda *_: answer)
        with pytest.raises(EngineError, match=f"TensorRT's {method}.* failed: TensorRT gave no"):
            runner.run(decoder_inputs("tensorrt", 0, PROMPT, picture(0)))
        monkeypatch.undo()


def test_a_plan_that_cannot_be_loaded_is_told(device: Callable[..., Device]) -> None:
    machine = device()
    path = next(machine.bundle.folder.glob("engines/*/decoder.engine"))
    library = Library(machine.trt, "tensorrt")
    path.write_bytes(b"of another TensorRT")
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0 cannot load .*magicTag is wrong: run"):
        TensorrtRunner(library, machine.cudart, path)
    path.write_bytes(b"")
    with pytest.raises(EngineError, match=r"cannot read .*decoder.engine: .*edge-mm build"):
        TensorrtRunner(library, machine.cudart, path)
    assert machine.cudart.leaks == 0


def test_a_tensorrt_that_cannot_start_says_why(device: Callable[..., Device]) -> None:
    machine = device()

    def runtime(log: Any) -> None:
        log.log(machine.trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("factory function returned nullptr")

    machine.trt.Runtime = runtime
    with pytest.raises(EngineError, match=r"10.3.0 cannot start here: CUDA initialization failure"):
        machine.open()
