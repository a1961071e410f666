"""The linear hook: y = x W^T with W stored as a precision says, as kernels or as Q/DQ nodes.

`cpu` and `cuda` keep quantised weights in com.microsoft::MatMulNBits; w8a8 of `cpu` multiplies
integers, see `linear_dynamic.py`. The other targets have a DequantizeLinear before a MatMul, which
TensorRT fuses and ONNX Runtime can run as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.hooks import FloatArray, Linear, constant
from edge_mm_export.linear_dynamic import dynamic_linear, tensor_linear
from edge_mm_export.precision import Precision
from edge_mm_export.quantise import (
    BlockWeight,
    quantise_blocks,
    quantise_channels,
    quantise_fp8,
)

_INT8_ACTIVATIONS = 4  # MatMulNBits accuracy_level: multiply in int8, sum in fp32

Scales = Mapping[str, float]
"""By name of a linear: what one step of its quantised input is worth (see `calibrate.py`)."""

BlockWeights = Mapping[str, BlockWeight]
"""By name of a linear: its weight as a better method than rounding to nearest quantised it."""


def linear_hook(
    graph: GraphBuilder,
    precision: Precision,
    *,
    contrib: bool,
    scales: Scales | None = None,
    quantised: BlockWeights | None = None,
) -> Linear:
    """The linear of a precision, with contrib kernels or standard operators.

    `scales` are needed for w8a8 and fp8, of every linear. `quantised` may hold some weights of
    int8 and int4; the others are rounded to nearest. While drawing, ExportError names a linear
    whose scale is missing or whose given weight does not fit.
    """
    dtype = precision.dtype
    if precision.weights == "float":
        return _float(graph, dtype)
    if precision.needs_scales:
        return _quantised_inputs(graph, dtype, precision.weights == "fp8", scales or {})
    if precision.weights == "int8-channel":
        return _channels(graph, dtype)
    if precision.weights == "w8a8-tensor":
        return tensor_linear(graph)
    blocks = _Blocks(precision, dtype.numpy(), quantised or {})
    in_blocks = _nbits(graph, dtype, blocks) if contrib else _dequantised(graph, dtype, blocks)
    if precision.weights == "w8a8-dynamic":
        return dynamic_linear(graph, in_blocks)
    return in_blocks


def _float(graph: GraphBuilder, dtype: ir.DataType) -> Linear:
    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        product: ir.Value = graph.op.MatMul(x, constant(graph, weight.T, f"{name}.weight", dtype))
        return product

    return linear


class _Blocks:
    """Weights in blocks: the given one of a name, else rounded to nearest."""

    def __init__(
        self, precision: Precision, scale_type: np.dtype[Any], given: BlockWeights
    ) -> None:
        self._precision, self._scale_type, self._given = precision, scale_type, given

    def __call__(self, name: str, weight: FloatArray) -> BlockWeight:
        found = self._given.get(name)
        bits, block = self._precision.bits, self._precision.block_of(name, weight.shape[1])
        if found is None:
            return quantise_blocks(weight, bits, self._scale_type, block)
        shape = (len(found.values), found.columns, found.bits, found.block)
        wanted = (*weight.shape, bits, block)
        if shape != wanted:
            raise ExportError(
                f"the quantised weight of {name} is {shape}, {wanted} is wanted (rows, columns, "
                "bits, block)"
            )
        return found


def _nbits(graph: GraphBuilder, dtype: ir.DataType, blocks: _Blocks) -> Linear:
    contrib = graph.opset("com.microsoft", 1)

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        rows, columns = weight.shape
        stored = blocks(name, weight)
        product: ir.Value = contrib.MatMulNBits(
            x,
            constant(graph, stored.packed(), f"{name}.weight_int{stored.bits}"),
            constant(graph, stored.scales, f"{name}.scales", dtype),
            N=rows,
            K=columns,
            bits=stored.bits,
            block_size=stored.block,
            accuracy_level=_INT8_ACTIVATIONS,
        )
        product.type = ir.TensorType(dtype)  # a contrib kernel has no schema that would tell
        return product

    return linear


def _dequantised(graph: GraphBuilder, dtype: ir.DataType, blocks: _Blocks) -> Linear:
    op = graph.op

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        stored = blocks(name, weight)
        if weight.shape[1] % stored.block:
            raise UnsupportedError(
                f"{name} has {weight.shape[1]} inputs, no multiple of {stored.block}: blocks do "
                "not fit; use a precision without them"
            )
        values, scales = stored.transposed()
        product: ir.Value = op.MatMul(
            x,
            op.DequantizeLinear(
                constant(graph, values, f"{name}.weight_int{stored.bits}"),
                constant(graph, scales, f"{name}.scales", dtype),
                axis=0,
                block_size=stored.block,
            ),
        )
        return product

    return linear


def _channels(graph: GraphBuilder, dtype: ir.DataType) -> Linear:
    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        product: ir.Value = graph.op.MatMul(x, _channel_weight(graph, dtype, name, weight))
        return product

    return linear


def _quantised_inputs(graph: GraphBuilder, dtype: ir.DataType, fp8: bool, scales: Scales) -> Linear:
    op = graph.op
    kind: npt.DTypeLike = ml_dtypes.float8_e4m3fn if fp8 else np.int8

    def linear(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        if name not in scales:
            raise ExportError(f"there is no activation scale for {name}: calibrate the model")
        step = constant(graph, np.array(scales[name]), f"{name}.input_scale", dtype)
        zero = constant(graph, np.zeros((), kind), f"{name}.input_zero")
        rounded = op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)
        product: ir.Value = op.MatMul(rounded, _channel_weight(graph, dtype, name, weight, fp8))
        return product

    return linear


def _channel_weight(
    graph: GraphBuilder, dtype: ir.DataType, name: str, weight: FloatArray, fp8: bool = False
) -> ir.Value:
    """W^T [K, N], dequantised by one scale for each of N."""
    quantise = quantise_fp8 if fp8 else quantise_channels
    values, scales = quantise(weight, 0, dtype.numpy())
    kind = "fp8" if fp8 else "int8"
    dequantised: ir.Value = graph.op.DequantizeLinear(
        constant(graph, values.T, f"{name}.weight_{kind}"),
        constant(graph, scales, f"{name}.scales", dtype),
        axis=1,
    )
    return dequantised
