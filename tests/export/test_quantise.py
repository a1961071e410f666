"""8-bit weights against numpy's dequantisation and ONNX Runtime's own kernel."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_mm_export.quantise import quantise_blocks, quantise_channels


@pytest.mark.parametrize("columns", [64, 100])
def test_blocks_round_to_half_a_step(columns: int) -> None:
    weight = np.random.default_rng(0).normal(size=(24, columns)).astype(np.float32)
    packed = quantise_blocks(weight)
    step = np.repeat(packed.scales, 32, axis=1)[:, :columns]
    assert np.all(np.abs(packed.dequantise() - weight) <= step * 0.5001)


def test_blocks_survive_zero_and_are_exact_on_their_own_grid() -> None:
    weight = np.zeros((2, 64), np.float32)
    weight[1, :32] = np.arange(-127, -95) * 0.5
    np.testing.assert_array_equal(quantise_blocks(weight).dequantise(), weight)


@pytest.mark.parametrize(("level", "tolerance"), [(0, 1e-5), (4, 2e-2)])
def test_onnx_runtime_multiplies_by_the_dequantised_weight(level: int, tolerance: float) -> None:
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(48, 96)).astype(np.float32)
    x = rng.normal(size=(3, 96)).astype(np.float32)
    packed = quantise_blocks(weight)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s"],
        ["y"],
        domain="com.microsoft",
        N=48,
        K=96,
        bits=8,
        block_size=32,
        accuracy_level=level,
    )
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 48])],
        [numpy_helper.from_array(packed.values, "b"), numpy_helper.from_array(packed.scales, "s")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (y,) = session.run(None, {"x": x})
    expected = x @ packed.dequantise().T
    assert np.abs(y - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_round_to_half_a_step(axis: int) -> None:
    weight = np.random.default_rng(2).normal(size=(6, 8, 3, 3)).astype(np.float32)
    values, scales = quantise_channels(weight, axis)
    steps = scales.reshape([-1 if i == axis else 1 for i in range(4)])
    assert values.dtype == np.int8
    assert scales.shape == (weight.shape[axis],)
    assert np.all(np.abs(values * steps - weight) <= steps * 0.5001)
