"""The wrapper of cuda-python: against the real package where it is installed, else on a stand-in.

The real one can be installed and imported without a driver: then each of its calls gives a true
error, which is what is looked at here.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

import pytest

from edge_mm_runtime.engines import cuda as cuda_module
from edge_mm_runtime.engines.cuda import Cuda, import_cudart
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.errors import MissingExtraError
from tests.runtime.engines import fake_tensorrt
from tests.runtime.engines.fake_cuda import FakeCudart, Stream, cudaError_t


@pytest.fixture
def real() -> Any:
    """cuda.bindings.runtime; the first line of a function's help tells its parameters."""
    return pytest.importorskip("cuda.bindings.runtime", reason="pip install cuda-bindings")


def parameters(function: Any) -> int:
    """How many parameters a compiled function has, by its docstring."""
    line = next(line for line in (function.__doc__ or "").splitlines() if line.strip())
    inside = line[line.index("(") + 1 : line.rindex(")")]
    return len([part for part in inside.split(",") if part.strip()])


def test_the_stand_in_has_only_what_cuda_python_has(real: Any) -> None:
    """So what the runner calls on the stand-in exists, with as many parameters."""
    names = [name for name in dir(FakeCudart) if name.startswith("cuda")]
    assert len(names) > 25
    for name in names:
        theirs, ours = getattr(real, name), getattr(FakeCudart, name)
        if inspect.isfunction(ours):
            assert parameters(theirs) == len(inspect.signature(ours).parameters) - 1, name
        elif inspect.isclass(ours):
            for member in ours:  # type: ignore[attr-defined]
                assert getattr(theirs, member.name) == member.value
        else:
            assert int(theirs) == ours


def test_a_real_error_is_told_by_name_and_text(real: Any) -> None:
    cuda = Cuda(real)
    error = real.cudaError_t.cudaErrorMemoryAllocation
    assert cuda._described(error).startswith("cudaErrorMemoryAllocation (out of memory): close")
    if real.cudaGetDeviceCount()[0] == real.cudaError_t.cudaSuccess:
        pytest.skip("this machine has a GPU")
    for call in (cuda.start, lambda: cuda.malloc(1 << 20), cuda.stream, cuda.event):
        with pytest.raises(EngineError, match=r"^cuda\w+.* failed: cudaError\w+ \(.+\)"):
            call()


def test_a_handle_is_a_number_to_tensorrt(real: Any) -> None:
    assert int(real.cudaStream_t(7)) == 7


@pytest.mark.parametrize(
    ("stand_in", "theirs"),
    [
        (fake_tensorrt.RtxEngine, "ICudaEngine"),
        (fake_tensorrt.IExecutionContext, "IExecutionContext"),
        (fake_tensorrt.IRuntimeConfig, "IRuntimeConfig"),
    ],
)
def test_the_stand_in_has_only_what_tensorrt_has(stand_in: Any, theirs: str, rtx: Any) -> None:
    real_class = getattr(rtx, theirs)
    names = [name for name in dir(stand_in) if not name.startswith("_")]
    assert names
    for name in names:
        real_member, ours = getattr(real_class, name), getattr(stand_in, name)
        if not inspect.isfunction(ours):
            continue
        for parameter in list(inspect.signature(ours).parameters)[1:]:
            if parameter != "config":  # one name for the strategy and for the configuration
                assert f"{parameter}:" in real_member.__doc__, f"{name}({parameter})"


def test_tensorrt_has_the_members_that_are_asked_for(rtx: Any) -> None:
    assert callable(rtx.Runtime.deserialize_cuda_engine)
    assert rtx.ExecutionContextAllocationStrategy.USER_MANAGED.name == "USER_MANAGED"
    assert rtx.DynamicShapesKernelSpecializationStrategy.EAGER.name == "EAGER"
    assert {"INPUT", "OUTPUT"} <= rtx.TensorIOMode.__members__.keys()
    assert {"HOST", "DEVICE"} <= rtx.TensorLocation.__members__.keys()
    assert {"FLOAT", "HALF", "BF16", "INT64", "INT32"} <= rtx.DataType.__members__.keys()
    assert "KV_CACHE_UPDATE" in rtx.LayerType.__members__
    assert "REQUIRE_USER_ALLOCATION" in rtx.BuilderFlag.__members__


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """packages("cuda.cudart") makes these modules importable and no other one of cuda-python."""

    def put(*names: str) -> None:
        for name in ("cuda", "cuda.bindings", *cuda_module._MODULES):
            monkeypatch.setitem(sys.modules, name, None)
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                package = types.ModuleType(".".join(parts[:end]))
                package.__path__ = []
                monkeypatch.setitem(sys.modules, package.__name__, package)

    return put


def test_the_module_is_found_under_both_names(packages: Any) -> None:
    packages("cuda.bindings.runtime")
    assert import_cudart().__name__ == "cuda.bindings.runtime"
    packages("cuda.cudart")  # 12.6, of JetPack 6
    assert import_cudart().__name__ == "cuda.cudart"
    packages()
    with pytest.raises(MissingExtraError, match=r"cuda-python is not installed: .*edge-mm\[gpu\]"):
        import_cudart()


def test_an_error_says_what_to_do() -> None:
    fake = FakeCudart()
    fake.failing["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(EngineError) as error:
        Cuda(fake).malloc(3 << 20)
    assert str(error.value) == (
        "cudaMalloc of 3.1 MB failed: cudaErrorMemoryAllocation (as CUDA words it): "
        "close other programs, or build a smaller precision or context"
    )


def test_an_error_in_a_capture_ends_it() -> None:
    fake = FakeCudart()
    cuda = Cuda(fake)
    stream = cuda.stream()
    assert isinstance(stream, Stream)

    def record() -> None:
        stream.put(lambda: None)
        raise EngineError("execute_async_v3 failed")

    with pytest.raises(EngineError, match="execute_async_v3 failed"):
        cuda.capture(stream, record)
    assert stream.captured is None and not stream.waiting
    assert fake.calls[-1] == "cudaGetLastError"  # nothing is left for TensorRT to find
    cuda.destroy_stream(stream)
    assert fake.leaks == 0


def test_nothing_is_freed_twice() -> None:
    fake = FakeCudart()
    cuda = Cuda(fake)
    address = cuda.malloc(10)
    cuda.free(address)
    with pytest.raises(EngineError, match=r"^cudaFree failed: cudaErrorInvalidValue"):
        cuda.free(address)
