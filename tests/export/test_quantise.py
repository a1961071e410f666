"""Rounded weights against numpy's dequantisation and ONNX Runtime's own kernels."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_mm_export.precision import PRECISIONS
from edge_mm_export.quantise import quantise_blocks, quantise_channels, quantise_fp8


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("columns", [64, 100])
def test_blocks_round_to_half_a_step(columns: int, bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=(24, columns)).astype(np.float32)
    stored = quantise_blocks(weight, bits)
    step = np.repeat(stored.scales, 32, axis=1)[:, :columns]
    assert np.abs(stored.values).max() == 2 ** (bits - 1) - 1
    assert np.all(np.abs(stored.dequantise() - weight) <= step * 0.5001)


@pytest.mark.parametrize(
    ("linear", "columns", "block"),
    [
        ("layers.0.qkv", 576, 128),  # 640: a ninth more
        ("lm_head", 576, 64),
        ("layers.0.down", 1536, 128),
        ("layers.0.down", 704, 128),
        ("layers.0.o", 192, 64),  # 256 would be a third more
        ("lm_head", 200, 32),
    ],
)
def test_blocks_are_large_where_little_is_padded(linear: str, columns: int, block: int) -> None:
    stored = PRECISIONS["cpu"]["int8"]
    assert stored.block_of(linear, columns) == block
    weight = np.random.default_rng(0).normal(size=(4, columns)).astype(np.float32)
    found = quantise_blocks(weight, block=block)
    assert found.block == block and found.dequantise().shape == weight.shape
    assert found.values.shape[1] == -(-columns // block)


def test_blocks_survive_zero_and_are_exact_on_their_own_grid() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[1, :32] = np.arange(-127, -95) * 0.5
    np.testing.assert_array_equal(quantise_blocks(weight).dequantise(), weight)


@pytest.mark.parametrize("stored", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_scales_fit_their_type_and_clip_nothing(stored: Any, size: float) -> None:
    weight = size * np.random.default_rng(3).normal(size=(64, 96)).astype(np.float32)
    found = quantise_blocks(weight, 8, np.dtype(stored))
    np.testing.assert_array_equal(found.scales, found.scales.astype(stored).astype(np.float32))
    step = np.repeat(found.scales, 32, axis=1)
    assert np.all(np.abs(found.dequantise() - weight) <= step * 0.5001)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("level", "tolerance"), [(0, 1e-5), (4, 2e-2)])
def test_onnx_runtime_multiplies_by_the_dequantised_weight(
    level: int, tolerance: float, bits: int
) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(48, 96)).astype(np.float32)
    x = rng.normal(size=(3, 96)).astype(np.float32)
    stored = quantise_blocks(weight, bits)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s"],
        ["y"],
        domain="com.microsoft",
        N=48,
        K=96,
        bits=bits,
        block_size=32,
        accuracy_level=level,
    )
    weights = [
        numpy_helper.from_array(stored.packed(), "b"),
        numpy_helper.from_array(stored.scales, "s"),
    ]
    y = _run(node, x, [3, 48], weights)
    expected = x @ stored.dequantise().T
    assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("bits", [8, 4])
def test_dequantize_linear_gives_the_transposed_weight(bits: int) -> None:
    weight = np.random.default_rng(1).normal(size=(48, 96)).astype(np.float32)
    stored = quantise_blocks(weight, bits)
    values, scales = stored.transposed()
    node = helper.make_node("DequantizeLinear", ["b", "s"], ["w"], axis=0, block_size=32)
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    kind = TensorProto.INT4 if bits == 4 else TensorProto.INT8
    flat = values.astype(np.int8).flatten()
    weights = [
        helper.make_tensor("b", kind, values.shape, flat),
        numpy_helper.from_array(scales, "s"),
    ]
    y = _run(node, np.eye(96, dtype=np.float32), [96, 48], weights, product)
    np.testing.assert_allclose(y, stored.dequantise().T, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_round_to_half_a_step(axis: int) -> None:
    weight = np.random.default_rng(2).normal(size=(6, 8, 3, 3)).astype(np.float32)
    values, scales = quantise_channels(weight, axis)
    steps = scales.reshape([-1 if i == axis else 1 for i in range(4)])
    assert values.dtype == np.int8
    assert scales.shape == (weight.shape[axis],)
    assert np.all(np.abs(values * steps - weight) <= steps * 0.5001)


def test_fp8_rounds_to_a_16th() -> None:
    weight = np.random.default_rng(2).normal(size=(6, 512)).astype(np.float32)
    values, scales = quantise_fp8(weight, 0)
    found = values.astype(np.float32)
    assert np.abs(found).max() == 448 and np.isfinite(found).all()
    normal = np.abs(found) >= 2**-6
    error = np.abs(found * scales[:, None] - weight)
    assert np.all(error[normal] <= np.abs(weight[normal]) / 16 * 1.001)


def _run(
    node: onnx.NodeProto,
    x: np.ndarray,
    shape: list[int],
    weights: list[TensorProto],
    *others: onnx.NodeProto,
) -> np.ndarray:
    """y of a graph of a few nodes and x."""
    graph = helper.make_graph(
        [node, *others],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        weights,
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found
