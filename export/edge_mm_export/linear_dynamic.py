"""The linears of w8a8 on `cpu`: 8-bit weights times 8-bit inputs, whose scales the graph measures.

w8a8 divides every token by its own largest input, so that what it comes to does not depend on the
tokens that are read with it. w8a8-tensor has one scale for all tokens of a pass instead, and a
single node for a linear; the first token is read by itself, since in most pretrained models its
activations are so large (arXiv 2402.17762) that all others would pay for them.

The inputs of `down` hold few large values among many small ones; both kinds rotate them first, as
`hadamard.py` does with the residual stream.

On x86 without VNNI the weights must become unsigned at load, see the options in runner.py: ONNX
Runtime would add pairs of these products in 16 saturating bits.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.hadamard import draw_rotation, rotate
from edge_mm_export.hooks import FloatArray, Linear, constant
from edge_mm_export.quantise import INT8_LARGEST, quantise_channels

_STEP = 1 / INT8_LARGEST  # of inputs within +-1
_ZERO = np.array(128, np.uint8)  # the kernels multiply unsigned inputs by signed weights


def tensor_linear(graph: GraphBuilder) -> Linear:
    """DynamicQuantizeMatMul: one scale a pass and one an output channel; fp32 in and out."""
    contrib = graph.opset("com.microsoft", 1)

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        x, weight = _spread(graph, x, name, weight)
        values, scales = quantise_channels(weight, 0)
        product: ir.Value = contrib.DynamicQuantizeMatMul(
            x,
            constant(graph, values.T, f"{name}.weight_int8"),
            constant(graph, scales, f"{name}.scales"),
        )
        product.type = ir.TensorType(ir.DataType.FLOAT)  # a contrib kernel has no schema to tell
        return product

    return linear


def dynamic_linear(graph: GraphBuilder, head: Linear) -> Linear:
    """MatMulIntegerToFloat with one scale a token and one an output channel; fp32 in and out.

    `head` draws lm_head: one row of it is computed a pass, so its products are no gain.
    """
    op, contrib = graph.op, graph.opset("com.microsoft", 1)
    step, zero = op.Constant(value_float=_STEP), constant(graph, _ZERO, "input_zero")
    last = op.Constant(value_ints=[-1])

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        if name == "lm_head":
            return head(x, name, weight)
        x, weight = _spread(graph, x, name, weight)
        values, scales = quantise_channels(weight, 0)
        largest = op.ReduceMax(op.Abs(x), last)  # [1, S, 1]
        # Of a token of zeros this makes NaN and integers of no meaning: 0 times them is 0 again.
        product: ir.Value = contrib.MatMulIntegerToFloat(
            op.QuantizeLinear(op.Div(x, largest), step, zero),
            constant(graph, values.T, f"{name}.weight_int8"),
            step,
            constant(graph, scales, f"{name}.scales"),
            zero,
        )
        product.type = ir.TensorType(ir.DataType.FLOAT)  # a contrib kernel has no schema to tell
        scaled: ir.Value = op.Mul(product, largest)
        return scaled

    return linear


def _spread(
    graph: GraphBuilder, x: ir.Value, name: str, weight: FloatArray
) -> tuple[ir.Value, FloatArray]:
    """The inputs and weight of `down` rotated alike: their product is what it was."""
    if not name.endswith(".down"):
        return x, weight
    return draw_rotation(graph, x, weight.shape[1]), rotate(weight)
