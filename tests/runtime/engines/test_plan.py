"""One graph through a real TensorRT-RTX, and the refusals that it answers by name.

Stand-ins are used where a machine without a GPU cannot produce a failure: full TensorRT (its
timing cache, its absent flag of TensorRT 11) and a builder that cannot start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from edge_mm_runtime.engines import plan as plan_module
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library
from edge_mm_runtime.engines.log import Messages
from edge_mm_runtime.engines.plan import Options, build_plan
from edge_mm_runtime.engines.profiles import decoder_sizes
from edge_mm_runtime.engines.progress import Show

SIZES = decoder_sizes(48, 16, 48)
WORKSPACE = 1 << 28

Build = Callable[..., tuple[Any, Any]]


@pytest.fixture
def build(rtx: Any, tmp_path: Path) -> Build:
    """build(model, capability=89, show=...) with TensorRT-RTX."""

    def call(
        model: onnx.ModelProto, capability: int = 89, show: Show = lambda line: None
    ) -> tuple[Any, Any]:
        path = tmp_path / "decoder.onnx"
        onnx.save(model, str(path))
        library = Library(rtx, "tensorrt_rtx")
        options = Options(library, "tensorrt", capability, WORKSPACE, tmp_path / "timing", show)
        return build_plan(path, "decoder", SIZES, options)

    return call


def test_a_parser_error_names_node_and_operator(build: Build, graphs: Any) -> None:
    with pytest.raises(EngineError) as error:
        build(graphs.decoder(last="FancyGather"))
    line = "parser refuses decoder.onnx: node /lm_head/last, operator FancyGather: "
    assert line in str(error.value)
    assert "Plugin not found" in str(error.value)


def test_an_input_that_is_dropped_is_an_error(build: Build, graphs: Any) -> None:
    with pytest.raises(EngineError, match=r"drops input spare of decoder.onnx"):
        build(graphs.decoder(spare=True))


def test_lengths_that_are_dropped_in_silence_are_refused(build: Build, graphs: Any) -> None:
    with pytest.raises(EngineError, match=r"node /heads .*nonpad_kv_seqlen"):
        build(graphs.decoder(lengths="write_indices"))


def test_a_failed_build_quotes_the_reason(build: Build, graphs: Any) -> None:
    """fp32 attention has no kernel: TensorRT says so in its log only."""
    model = graphs.decoder()
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    for value in [*model.graph.input, *model.graph.output]:
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = full
    for weight in model.graph.initializer:
        if weight.data_type == half:
            array = onnx.numpy_helper.to_array(weight).astype("float32")
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    with pytest.raises(EngineError, match=r"cannot build decoder.onnx: .*Attention operation"):
        build(model)


def test_ctrl_c_stops_tensorrt_itself(
    build: Build, graphs: Any, ctrl_c: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = Messages()
    monkeypatch.setattr(plan_module, "Messages", lambda: said)
    with pytest.raises(KeyboardInterrupt):
        build(graphs.decoder(), show=ctrl_c)
    assert "Build canceled by user" in said.reasons()


def test_a_precision_that_the_gpu_lacks_is_seen_in_the_graph(build: Build, graphs: Any) -> None:
    model = graphs.weight_only(TensorProto.FLOAT8E4M3FN)
    with pytest.raises(EngineError, match=r"decoder.onnx computes in fp8, which needs SM89"):
        build(model, capability=86)


def test_a_capability_that_is_constructed_and_refused(build: Build, graphs: Any) -> None:
    """ComputeCapability(87) is made without a word; set_compute_capability returns False."""
    with pytest.raises(EngineError, match=r"TensorRT-RTX .* does not build for SM87"):
        build(graphs.decoder(), capability=87)


def test_a_file_without_a_graph_is_named(build: Build) -> None:
    with pytest.raises(EngineError, match=r"decoder.onnx holds no graph"):
        build(onnx.ModelProto(ir_version=11))


def test_a_workspace_that_is_not_taken_is_an_error() -> None:
    config = SimpleNamespace(
        set_memory_pool_limit=lambda pool, size: None, get_memory_pool_limit=lambda pool: 0
    )
    trt = SimpleNamespace(MemoryPoolType=SimpleNamespace(WORKSPACE=0), __version__="10.3.0")
    with pytest.raises(EngineError, match=r"TensorRT 10.3.0 refuses a workspace of 268435456"):
        plan_module._configure(config, options(trt))


def test_a_builder_that_cannot_start_says_why(tmp_path: Path, graphs: Any) -> None:
    class Logger:
        Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)

    def builder(log: Any) -> None:
        log.log(1, "CUDA initialization failure\nwith error: 35")
        raise TypeError("factory function returned nullptr")

    path = tmp_path / "decoder.onnx"
    onnx.save(graphs.decoder(), str(path))
    trt = SimpleNamespace(ILogger=Logger, Builder=builder, __version__="10.3.0")
    with pytest.raises(EngineError, match=r"cannot start .*: CUDA initialization failure with"):
        build_plan(path, "decoder", SIZES, options(trt))


def test_types_are_strong_with_and_without_the_flag(rtx: Any) -> None:
    flag = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert plan_module._network_flags(rtx) == flag
    eleven = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert plan_module._network_flags(eleven) == 0


def test_the_decoder_is_built_to_be_captured(rtx: Any) -> None:
    """By a flag of TensorRT-RTX; the other tests here build with it, full TensorRT has none."""
    flag = rtx.BuilderFlag.REQUIRE_USER_ALLOCATION
    config = rtx.Builder(rtx.Logger()).create_builder_config()
    assert not config.get_flag(flag)
    plan_module._allow_capture(rtx, config)
    assert config.get_flag(flag)
    plan_module._allow_capture(SimpleNamespace(BuilderFlag=SimpleNamespace()), None)


def test_a_timing_cache_of_another_gpu_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "timing").write_bytes(b"of another GPU")
    made: list[bytes] = []

    def create(data: bytes) -> bytes:
        made.append(data)
        return data

    config = SimpleNamespace(
        create_timing_cache=create, set_timing_cache=lambda cache, mismatch: cache == b""
    )
    trt = SimpleNamespace(__version__="10.3.0")
    assert plan_module._read_timing_cache(config, options(trt, tmp_path / "timing")) == b""
    assert made == [b"of another GPU", b""]


def test_rtx_keeps_no_timing_cache(build: Build, graphs: Any, tmp_path: Path) -> None:
    assert build(graphs.weight_only(TensorProto.FLOAT8E4M3FN), capability=89)[0].nbytes > 0
    assert not (tmp_path / "timing").exists()


def test_the_log_is_kept_in_one_line() -> None:
    messages = Messages()
    assert messages.reasons() == "TensorRT gave no reason"
    messages.warnings += ["Unused Input: lengths", "Make sure input input_ids has Int64 binding."]
    assert messages.unused_inputs() == ["lengths"]
    for number in range(1500):  # an engine that warns at every pass
        messages.add(messages.errors, f"line {number}")
    assert len(messages.errors) == 1000
    assert messages.reasons() == "line 1498; line 1499"


def options(trt: Any, timing: Path = Path("timing")) -> Options:
    """Options of full TensorRT, with a stand-in for its module."""
    return Options(Library(trt, "tensorrt"), "tensorrt", 87, WORKSPACE, timing, lambda line: None)
