"""The four places where a decoder graph differs by target.

`decoder.py` draws everything else once. A target is a function that declares the cache inputs its
attention needs on the graph and returns its `Hooks`: see `hooks_cpu.py`, `hooks_tensorrt.py` and
`hooks_primitive.py`; its `linear` is one of `linear.py`. S is the number of tokens in a pass;
weights arrive as torch stores them; names are whole, e.g. "layers.0.qkv".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.errors import ExportError
from edge_mm_export.mask import Visible, visibility

FloatArray = npt.NDArray[np.float32]
Linear = Callable[[ir.Value, str, FloatArray], ir.Value]
Norm = Callable[[ir.Value, str, FloatArray], ir.Value]


@dataclass(frozen=True)
class Attended:
    """What one attention layer gives: its mixed heads [1, S, heads*head_dim] and its new cache."""

    output: ir.Value
    present_key: ir.Value
    present_value: ir.Value


@dataclass(frozen=True)
class Hooks:
    """One target's way to draw the four operations; all values are of `dtype`."""

    dtype: ir.DataType
    linear: Linear
    """(x [1, S, K], name, weight [N, K]) -> [1, S, N]"""
    norm: Norm
    """(x [1, S, D], name, weight [D]) -> RMS norm of x"""
    add_norm: Callable[[ir.Value, ir.Value, str, FloatArray], tuple[ir.Value, ir.Value]]
    """(x, residual, name, weight [D]) -> (RMS norm of their sum, their sum)"""
    attention: Callable[[ir.Value, int], Attended]
    """(packed queries, keys, values [1, S, qkv_size]; layer) -> `Attended`, RoPE included"""


def constant(
    graph: GraphBuilder, values: npt.NDArray[Any], name: str, dtype: ir.DataType | None = None
) -> ir.Value:
    """Store values under a name, as they are or rounded to `dtype`; ExportError for overflow."""
    if dtype is not None:
        exact = values
        with np.errstate(over="ignore"):
            values = exact.astype(dtype.numpy(), copy=False)
        if not np.isfinite(values).all():
            largest = np.abs(exact).max()
            raise ExportError(f"{name} holds {largest:g}, which {dtype.name} cannot: try bf16")
    stored = ir.tensor(np.ascontiguousarray(values), name=name)
    return graph.initializer(stored, qualify=False)


def cast(graph: GraphBuilder, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    """`value` as `dtype`, by a node if it is of another type."""
    cast_value: ir.Value = value if value.dtype == dtype else graph.op.Cast(value, to=dtype)
    return cast_value


def cache_inputs(
    graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType, capacity: int | str
) -> list[tuple[ir.Value, ir.Value]]:
    """Declare `past_key_values.{i}.key|value` [1, kv_heads, capacity, head_dim]: pairs by layer."""
    shape: list[int | str | None] = [1, spec.kv_heads, capacity, spec.head_dim]

    def past(layer: int, part: str) -> ir.Value:
        return graph.input(f"past_key_values.{layer}.{part}", dtype, shape)

    return [(past(i, "key"), past(i, "value")) for i in range(spec.layers)]


def position_input(graph: GraphBuilder, spec: DecoderSpec) -> tuple[ir.Value, Visible]:
    """Declare `position_ids` i64 [1, S], where new tokens stand in a cache of fixed capacity."""
    position_ids = graph.input("position_ids", ir.DataType.INT64, [1, "sequence"])
    every = constant(graph, np.arange(spec.context), "cache.places")
    return position_ids, visibility(graph, spec, position_ids, every)


def rms_norm(graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType) -> Norm:
    """The norm hook of targets that know RMSNormalization (opset 23)."""

    def norm(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        gain = constant(graph, weight, f"{name}.weight", dtype)
        normed: ir.Value = graph.op.RMSNormalization(x, gain, axis=-1, epsilon=spec.norm_eps)
        return normed

    return norm


def split_heads(
    graph: GraphBuilder, spec: DecoderSpec, qkv: ir.Value
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Packed [1, S, qkv_size] -> queries [1, heads, S, head_dim], keys and values by kv head."""
    op = graph.op
    heads = (spec.heads, spec.kv_heads, spec.kv_heads)
    parts = op.Split(qkv, [count * spec.head_dim for count in heads], axis=-1, _outputs=3)

    def by_head(part: ir.Value, count: int) -> ir.Value:
        split = op.Reshape(part, [1, -1, count, spec.head_dim])
        ordered: ir.Value = op.Transpose(split, perm=[0, 2, 1, 3])
        return ordered

    query, key, value = (by_head(part, count) for part, count in zip(parts, heads, strict=True))
    return query, key, value


def join_heads(graph: GraphBuilder, spec: DecoderSpec, mixed: ir.Value) -> ir.Value:
    """[1, heads, S, head_dim] -> [1, S, heads * head_dim]."""
    op = graph.op
    rows = op.Transpose(mixed, perm=[0, 2, 1, 3])
    joined: ir.Value = op.Reshape(rows, [1, -1, spec.heads * spec.head_dim])
    return joined
