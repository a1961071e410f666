"""The linear of w8a8 on `cpu`: 8-bit weights times 8-bit inputs, whose scales the graph measures.

Every token is divided by its own largest input, so that what it comes to does not depend on the
tokens that are read with it. Where 8 bits of an input lose too much, it is split into two digits
to the base 254, which are rows of one product: the weights are read once and kept once. On
SmolLM2-135M that is `qkv` and `down`, whose inputs hold few large values among many small ones.

w8a8-tensor has one scale for all tokens of a pass instead, and a single node for a linear. What a
token comes to then depends a little on those that are read with it, and where the first token has
massive activations (arXiv 2402.17762), as in most pretrained language models, all others pay.

x86 needs VNNI for these products (ONNX Runtime adds pairs of them in 16 saturating bits without).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.hooks import FloatArray, Linear, constant
from edge_mm_export.quantise import INT8_LARGEST, quantise_channels

_TWO_DIGITS = ("qkv", "down")
_STEP = 1 / INT8_LARGEST  # of inputs within +-1
_BASE = 2 * INT8_LARGEST  # a rest is within half a step: again +-127 of its steps
_ZERO = np.array(128, np.uint8)  # the kernels multiply unsigned inputs by signed weights


def tensor_linear(graph: GraphBuilder, head: Linear) -> Linear:
    """DynamicQuantizeMatMul: one scale a pass and one an output channel; fp32 in and out.

    `head` draws lm_head, as for `dynamic_linear`.
    """
    contrib = graph.opset("com.microsoft", 1)

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        if name == "lm_head":
            return head(x, name, weight)
        values, scales = quantise_channels(weight, 0)
        product: ir.Value = contrib.DynamicQuantizeMatMul(
            x,
            constant(graph, values.T, f"{name}.weight_int8"),
            constant(graph, scales, f"{name}.scales"),
        )
        product.type = ir.TensorType(ir.DataType.FLOAT)
        return product

    return linear


def dynamic_linear(graph: GraphBuilder, head: Linear) -> Linear:
    """MatMulIntegerToFloat with one scale a token and one an output channel; fp32 in and out.

    `head` draws lm_head: one row of it is computed a pass, so its products are no gain.
    """
    op, contrib = graph.op, graph.opset("com.microsoft", 1)
    step, zero = op.Constant(value_float=_STEP), constant(graph, _ZERO, "input_zero")
    fine = op.Constant(value_float=_STEP / _BASE)
    places = constant(graph, np.array([[1, 1 / _BASE]], np.float32), "digit_places")
    last = op.Constant(value_ints=[-1])

    def product(quantised: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        values, scales = quantise_channels(weight, 0)
        found: ir.Value = contrib.MatMulIntegerToFloat(
            quantised,
            constant(graph, values.T, f"{name}.weight_int8"),
            step,
            constant(graph, scales, f"{name}.scales"),
            zero,
        )
        found.type = ir.TensorType(ir.DataType.FLOAT)  # a contrib kernel has no schema to tell
        return found

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        if name == "lm_head":
            return head(x, name, weight)
        largest = op.ReduceMax(op.Abs(x), last)  # [1, S, 1]
        # Of a token of zeros this makes NaN and integers of no meaning: 0 times them is 0 again.
        inputs = op.Div(x, largest)
        quantised = op.QuantizeLinear(inputs, step, zero)
        if name.rpartition(".")[2] in _TWO_DIGITS:
            rest = op.Sub(inputs, op.DequantizeLinear(quantised, step, zero))
            both = op.Concat(quantised, op.QuantizeLinear(rest, fine, zero), axis=0)  # [2, S, K]
            products = op.Reshape(product(both, name, weight), [2, -1])
            # As a product of matrices their sum takes half the time of Mul and ReduceSum.
            total = op.Reshape(op.MatMul(places, products), [1, -1, len(weight)])
        else:
            total = product(quantised, name, weight)
        scaled: ir.Value = op.Mul(total, largest)
        return scaled

    return linear
