"""16-bit graphs between fp32 borders, and how they are checked on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from edge_mm_export.cast import emulated, lowered, widened
from edge_mm_export.errors import ExportError, UnsupportedError

HALF, BRAIN, EXACT = ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
small (float[1, 3, 4, 4] x) => (float[1, 3, 8, 8] y, int64[4] size)
<float[3, 3, 1, 1] w = {0.3, -0.7, 0.1, 1.1, 0.6, -0.9, 0.2, -0.4, 0.8},
 float[4] scales = {1.0, 1.0, 2.0, 2.0}, float mask = {-3.0e38}>
{
    convolved = Conv(x, w)
    large = Resize<mode = "linear">(convolved, , scales)
    zero = Constant<value = float {0.0}>()
    positive = Greater(large, zero)
    masked = Where(positive, large, mask)
    y = Relu(masked)
    size = Shape(large)
}
"""
X = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)


@pytest.fixture
def model() -> ir.Model:
    """The graph with all types known, each node named after its operator."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(GRAPH)))
    for node in model.graph:
        node.name = node.op_type
    return model


def run(model: ir.Model, folder: Path) -> list[np.ndarray]:
    ir.save(model, folder / "graph.onnx")
    found: list[np.ndarray] = onnxruntime.InferenceSession(folder / "graph.onnx").run(
        None, {"x": X}
    )
    return found


def test_fp16_inside_fp32_outside(model: ir.Model, tmp_path: Path) -> None:
    expected, shape = run(model, tmp_path)
    cast = lowered(model, HALF)
    found, same_shape = run(cast, tmp_path)
    np.testing.assert_array_equal(shape, same_shape)
    error = np.abs(found - expected).max()
    assert found.dtype == np.float32 and 0 < error < 4e-3
    kept = {value.name: value.dtype for value in cast.graph.initializers.values()}
    assert kept == {"w": HALF, "mask": HALF, "scales.fp32": EXACT}  # Resize takes fp32 scales
    assert cast.graph.initializers["mask"].const_value.numpy() == -65504
    again, _ = run(model, tmp_path)  # the given graph is as it was
    np.testing.assert_array_equal(again, expected)
    assert {value.dtype for node in model.graph for value in node.outputs} == {
        EXACT,
        ir.DataType.BOOL,
        ir.DataType.INT64,
    }


def test_islands_compute_in_fp32(model: ir.Model, tmp_path: Path) -> None:
    expected, _ = run(model, tmp_path)
    cast = lowered(model, HALF, ["Conv"])
    conv = next(node for node in cast.graph if node.op_type == "Conv")
    assert [value.dtype for value in (*conv.inputs, *conv.outputs)] == [EXACT] * 3
    whole = np.abs(run(lowered(model, HALF), tmp_path)[0] - expected).max()
    assert np.abs(run(cast, tmp_path)[0] - expected).max() < whole
    with pytest.raises(ExportError, match="no node 'norm'"):
        lowered(model, HALF, ["norm"])


def test_untyped_values_are_refused(model: ir.Model) -> None:
    model.graph.node(0).outputs[0].type = None
    with pytest.raises(UnsupportedError, match="type of convolved is unknown"):
        lowered(model, HALF)


@pytest.mark.parametrize("half", [HALF, BRAIN])
def test_emulation_rounds_after_every_node(half: ir.DataType, tmp_path: Path) -> None:
    """x squared, doubled and multiplied by itself, against numpy's own 16-bit types."""
    x = ir.val("x", EXACT, [4])
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20})

    def draw(operator: str, inputs: list[ir.Value], dtype: ir.DataType) -> ir.Value:
        node = ir.node(operator, inputs, {"to": dtype} if operator == "Cast" else None)
        (value,) = node.outputs
        value.name, value.type = f"value{graph.num_nodes()}", ir.TensorType(dtype)
        value.shape = ir.Shape([4])
        graph.append(node)
        return value

    given = draw("Cast", [x], half)
    square = draw("Mul", [given, given], half)
    double = draw("Add", [square, square], half)
    graph.outputs.append(draw("Cast", [draw("Div", [double, given], half)], EXACT))
    values = np.array([1.01, 3.3, -7.7, 300.3], np.float32)
    ir.save(emulated(ir.Model(graph, ir_version=10)), tmp_path / "graph.onnx")
    (found,) = onnxruntime.InferenceSession(tmp_path / "graph.onnx").run(None, {"x": values})
    with np.errstate(over="ignore"):
        expected = values.astype(half.numpy())
        squared = expected * expected
        expected = (squared + squared) / expected
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert np.isinf(found[3]) == (half == HALF)


HALVES = """
<ir_version: 10, opset_import: ["" : 20]>
halves (float[4] x) => (float[4] y, float[4] square)
<float[1] large = {1000.0}>
{
    many = Mul(x, large)
    square = Mul(many, many)
    root = Sqrt(square)
    y = Div(root, large)
}
"""


def test_widened_nodes_compute_in_fp32_and_hand_it_on(tmp_path: Path) -> None:
    """|x| by way of its square times a million, which fp16 does not hold."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(HALVES)))
    (large,) = model.graph.initializers.values()
    large.const_value = ir.tensor(np.array([1000], np.float16), name="large")
    for value in [value for node in model.graph for value in (*node.inputs, *node.outputs)]:
        value.type = ir.TensorType(HALF)
    for node in model.graph:
        node.name = node.outputs[0].name
    values = np.array([1.01, -3.3, 0.1, 7.7], np.float16)

    def run(model: ir.Model) -> list[np.ndarray]:
        ir.save(emulated(model), tmp_path / "graph.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "graph.onnx")
        found: list[np.ndarray] = session.run(None, {"x": values})
        return found

    assert np.isinf(run(model)[0]).any()
    y, square = run(widened(model, ["square", "root"]))
    assert y.dtype == square.dtype == np.float16
    assert np.isinf(square).any()  # the graph's output is still of 16 bits
    np.testing.assert_allclose(y, np.abs(values), rtol=2e-3)
    alone, _ = run(widened(model, ["square"]))
    assert np.isinf(alone).any()  # rounded on its way into the root
    whole = widened(model, ["many", "square", "root", "y"])
    (inner,) = whole.graph.initializers.values()
    assert inner.dtype == EXACT and inner.const_value.numpy() == 1000
    np.testing.assert_array_equal(run(whole)[0], np.abs(values))
    with pytest.raises(ExportError, match="no node 'norm'"):
        widened(model, ["norm"])
