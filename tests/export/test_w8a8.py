"""The dynamic w8a8 linears of `cpu` against numpy: scales of tokens or all, rotations, zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import scipy.linalg
from onnxscript import GraphBuilder

from edge_mm_export.decoder import build_decoder
from edge_mm_export.linear import linear_hook
from edge_mm_export.precision import PRECISIONS, export_steps
from edge_mm_runtime.runner import OnnxRunner

WIDTH, OUT = 96, 48
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(OUT, WIDTH)).astype(np.float32)
TOKENS = RNG.normal(size=(1, 5, WIDTH)).astype(np.float32)
TOKENS[0, 0, 3] = 500  # an outlier as in the first token of a language model
TOKENS[0, 1] *= 1e-4


def run(name: str, x: np.ndarray, folder: Path, precision: str = "w8a8") -> np.ndarray:
    """The product of a linear of that name with WEIGHT on ONNX Runtime."""
    opsets = {"": 23, "com.microsoft": 1}
    graph = GraphBuilder(ir.Graph([], [], nodes=[], opset_imports=opsets, name="one"))
    tokens = graph.input("x", ir.DataType.FLOAT, [1, "tokens", WIDTH])
    linear = linear_hook(graph, PRECISIONS["cpu"][precision], contrib=True)
    product = linear(tokens, name, WEIGHT)
    product.name = "y"
    graph.add_output(product, "y")
    ir.save(ir.Model(graph.graph, ir_version=10), folder / "one.onnx")
    with OnnxRunner(folder / "one.onnx", 1) as runner:
        return runner.run({"x": x})["y"]


def channels(weight: np.ndarray) -> np.ndarray:
    """`weight` [N, K] rounded to 8 bits by one scale for each of N."""
    step = np.abs(weight.astype(np.float64)).max(1, keepdims=True) / 127
    return np.rint(weight / step) * step


@pytest.mark.parametrize("name", ["layers.0.o", "layers.0.gate_up"])
def test_a_token_is_rounded_to_127_steps_of_its_largest_input(name: str, tmp_path: Path) -> None:
    step = np.abs(TOKENS.astype(np.float64)).max(2, keepdims=True) / 127
    expected = np.rint(TOKENS / step) * step @ channels(WEIGHT).T
    found = run(name, TOKENS, tmp_path)
    assert found.shape == (1, 5, OUT)
    errors = np.abs(found - expected).max(2) / np.abs(expected).max(2)
    assert errors.max() < 1e-5
    lost = np.abs(expected - TOKENS @ channels(WEIGHT).T).max(2)
    assert (lost[0] > 0.2 * step[0, :, 0]).all()  # the reference does round


def test_an_outlier_among_the_inputs_of_down_costs_less_than_elsewhere(tmp_path: Path) -> None:
    tokens = TOKENS[:, 2:].copy()
    tokens[0, :, 7] = 400  # in every token, where the others are within 3
    exact = tokens.astype(np.float64) @ WEIGHT.T
    others = np.linalg.norm(TOKENS[:, 2:].astype(np.float64) @ WEIGHT.T)
    for precision in ("w8a8", "w8a8-tensor"):
        lost = {}
        for name in ("layers.0.o", "layers.11.down"):
            found = run(name, tokens, tmp_path, precision)
            assert found.shape == (1, 3, OUT)
            lost[name] = np.linalg.norm(found - exact) / others
        assert lost["layers.11.down"] < lost["layers.0.o"] / 1.5


@pytest.mark.parametrize("name", ["layers.0.o", "layers.0.down"])
def test_a_token_does_not_depend_on_its_neighbours(name: str, tmp_path: Path) -> None:
    together = run(name, TOKENS, tmp_path)
    for place in range(TOKENS.shape[1]):
        alone = run(name, TOKENS[:, place : place + 1], tmp_path)
        np.testing.assert_array_equal(alone[0, 0], together[0, place])


@pytest.mark.parametrize("name", ["layers.0.o", "layers.0.down"])
def test_zeros_give_zeros_and_leave_the_others_alone(name: str, tmp_path: Path) -> None:
    tokens = TOKENS.copy()
    tokens[0, 2] = 0
    found, whole = run(name, tokens, tmp_path), run(name, TOKENS, tmp_path)
    np.testing.assert_array_equal(found[0, 2], np.zeros(OUT))
    np.testing.assert_array_equal(found[0, [0, 1, 3, 4]], whole[0, [0, 1, 3, 4]])


def test_its_decoder_needs_no_frames_and_holds_each_weight_once(tiny: Any) -> None:
    stored = PRECISIONS["cpu"]["w8a8"]
    assert not stored.needs_scales and not stored.is_calibrated
    assert export_steps("cpu", "w8a8") == (("cpu", "fp32"), ("cpu", "w8a8"))
    graph = build_decoder(tiny.spec, tiny.weights(), precision="w8a8").graph
    kinds = [node.op_type for node in graph]
    assert kinds.count("MatMulIntegerToFloat") == 4 * tiny.spec.layers
    assert kinds.count("MatMulNBits") == 1  # lm_head
    weights = [
        value.const_value.size
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.dtype == ir.DataType.INT8
    ]
    layer = tiny.spec.hidden_size * (tiny.spec.qkv_size + tiny.spec.heads * tiny.spec.head_dim)
    layer += 3 * tiny.spec.hidden_size * tiny.spec.intermediate_size
    table = tiny.spec.vocab_size * tiny.spec.hidden_size
    assert sum(weights) == tiny.spec.layers * layer + table


@pytest.mark.parametrize("name", ["layers.0.o", "layers.0.down"])
def test_one_scale_of_all_tokens_is_numpys(name: str, tmp_path: Path) -> None:
    turn = scipy.linalg.block_diag(*[scipy.linalg.hadamard(32) / 32**0.5] * 3)  # 96 = 3 x 32
    turn = turn if name.endswith("down") else np.eye(WIDTH)
    tokens, weight = TOKENS[:, 2:] @ turn, channels(WEIGHT @ turn)
    low, high = (float(f(tokens.astype(np.float64))) for f in (np.min, np.max))
    step = (high - low) / 255
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(tokens / step) + zero, 0, 255) - zero) * step
    expected = rounded @ weight.T
    found = run(name, TOKENS[:, 2:], tmp_path, "w8a8-tensor")
    assert found.shape == (1, 3, OUT)
    # A rounding at half a step may fall either way in fp32.
    assert np.abs(found - expected).max() < step * np.abs(weight).max() * 2
    assert np.abs(expected - tokens @ weight.T).max() > 10 * np.abs(found - expected).max()


def test_an_outlier_spoils_one_scale_of_all_and_not_those_of_tokens(tmp_path: Path) -> None:
    exact = TOKENS.astype(np.float64) @ WEIGHT.T
    errors = {}
    for precision in ("w8a8", "w8a8-tensor"):
        found = run("layers.0.o", TOKENS, tmp_path, precision)
        errors[precision] = np.linalg.norm(found - exact, axis=2) / np.linalg.norm(exact, axis=2)
    assert errors["w8a8"][0, 2:].max() < 0.02
    assert errors["w8a8-tensor"][0, 2:].min() > 0.2


def test_its_decoder_has_one_node_for_a_linear(tiny: Any) -> None:
    stored = PRECISIONS["cpu"]["w8a8-tensor"]
    assert not stored.needs_scales and not stored.is_calibrated
    kinds = [
        node.op_type
        for node in build_decoder(tiny.spec, tiny.weights(), precision="w8a8-tensor").graph
    ]
    plain = [
        node.op_type for node in build_decoder(tiny.spec, tiny.weights(), precision="int8").graph
    ]
    assert kinds.count("DynamicQuantizeMatMul") == 4 * tiny.spec.layers + 1  # lm_head
    rotation_of_down = ("Reshape", "MatMul", "Reshape")
    assert len(kinds) == len(plain) + len(rotation_of_down) * tiny.spec.layers
