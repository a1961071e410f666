"""The `tensorrt-10.3` target (JetPack 6): operators that were there before attention had its own.

Opset 20. New keys and values are scattered into rows of the cache, which comes back whole. The
queries of one key/value head are rows of one matrix, so that no head is copied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.hooks import (
    Attended,
    FloatArray,
    Hooks,
    Linear,
    cache_inputs,
    cast,
    constant,
    join_heads,
    position_input,
    split_heads,
)
from edge_mm_export.rope import Rope, Tables

_MASKED = -6e4  # a score that no other one in fp16 comes near


def primitive_hooks(
    graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType, linear: Linear
) -> Hooks:
    """Declare the cache inputs on `graph` and return its hooks.

    Inputs: `past_key_values.{i}.key|value` [1, kv_heads, context, head_dim], `position_ids`
    i64 [1, S] (the new tokens' places in the cache).
    """
    op = graph.op
    exact = ir.DataType.FLOAT
    size, context = spec.head_dim, spec.context
    past = cache_inputs(graph, spec, dtype, context)
    position_ids, visible = position_input(graph, spec)
    seen = functools.cache(visible)  # layers of one window share a mask
    masks = [seen(spec.window(layer)) for layer in range(spec.layers)]
    places = op.Reshape(position_ids, [-1])
    rope = Rope(graph, spec, dtype)

    @functools.cache
    def turns(tables: Tables | None) -> Tables | None:
        """A table's rows of this pass."""
        if tables is None or rope.by_axes:
            return tables
        cosines, sines = (op.Gather(table, places) for table in tables)
        return cosines, sines

    turned_by = [turns(rope.tables(layer)) for layer in range(spec.layers)]
    first_rows = np.arange(spec.kv_heads)[:, None] * context
    rows = op.Add(constant(graph, first_rows, "cache.first_rows"), places)  # [kv_heads, S]
    rows = op.Reshape(rows, [-1, 1])
    attend = primitive_attention(graph, spec, dtype)
    epsilon = constant(graph, np.array(spec.norm_eps), "norm.epsilon", exact)

    def norm(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        x = cast(graph, x, exact)  # the squares would leave fp16
        mean = op.ReduceMean(op.Mul(x, x), [-1], keepdims=1)
        normed = cast(graph, op.Div(x, op.Sqrt(op.Add(mean, epsilon))), dtype)
        gained: ir.Value = op.Mul(normed, constant(graph, weight, f"{name}.weight", dtype))
        return gained

    def add_norm(
        x: ir.Value, residual: ir.Value, name: str, weight: FloatArray
    ) -> tuple[ir.Value, ir.Value]:
        total = op.Add(x, residual)
        return norm(total, name, weight), total

    def rotate(x: ir.Value, layer: int) -> ir.Value:
        tables = turned_by[layer]
        if tables is None:
            return x
        cosines, sines = tables
        rest: list[ir.Value] = []
        if spec.rotary_dim is not None:
            sizes = [spec.rotary_dim, size - spec.rotary_dim]
            x, *rest = op.Split(x, sizes, axis=-1, _outputs=2)
        first, second = op.Split(x, axis=-1, num_outputs=2, _outputs=2)
        rotated: ir.Value = op.Concat(
            op.Sub(op.Mul(first, cosines), op.Mul(second, sines)),
            op.Add(op.Mul(second, cosines), op.Mul(first, sines)),
            *rest,
            axis=-1,
        )
        return rotated

    def write(cache: ir.Value, new: ir.Value) -> ir.Value:
        flat, updates = (op.Reshape(x, [-1, size]) for x in (cache, new))
        written = op.ScatterND(flat, rows, updates)
        whole: ir.Value = op.Reshape(written, [1, spec.kv_heads, context, size])
        return whole

    def attention(qkv: ir.Value, layer: int) -> Attended:
        query, key, value = split_heads(graph, spec, qkv)
        keys, values = (
            write(cache, new)
            for cache, new in zip(past[layer], (rotate(key, layer), value), strict=True)
        )
        mixed = attend(rotate(query, layer), keys, values, masks[layer])
        return Attended(join_heads(graph, spec, mixed), keys, values)

    return Hooks(dtype, linear, norm, add_norm, attention)


Attend = Callable[[ir.Value, ir.Value, ir.Value, ir.Value], ir.Value]
"""(queries [1, heads, S, head_dim], keys and values [1, kv_heads, context, head_dim], bool mask
[S, context]) -> [1, heads, S, head_dim]"""


def primitive_attention(graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType) -> Attend:
    """Attention in matrix products and a softmax, with soft-capping if the spec says so."""
    op = graph.op
    group, size, context = spec.heads // spec.kv_heads, spec.head_dim, spec.context
    masked = constant(graph, np.array(_MASKED), "attention.masked", dtype)
    factor = size**-0.5 if spec.attention_scale is None else spec.attention_scale
    scale = constant(graph, np.array(factor), "attention.scale", dtype)
    softcap = spec.attention_softcap
    cap = None if softcap is None else constant(graph, np.array(softcap), "attention.cap", dtype)

    def attend(query: ir.Value, keys: ir.Value, values: ir.Value, mask: ir.Value) -> ir.Value:
        query = op.Reshape(op.Mul(query, scale), [1, spec.kv_heads, -1, size])
        scores = op.MatMul(query, op.Transpose(keys, perm=[0, 1, 3, 2]))
        if cap is not None:
            scores = op.Mul(op.Tanh(op.Div(scores, cap)), cap)
        scores = op.Reshape(scores, [spec.kv_heads, group, -1, context])
        mass = op.Softmax(op.Where(mask, scores, masked), axis=-1)
        mass = op.Reshape(mass, [1, spec.kv_heads, -1, context])
        mixed: ir.Value = op.Reshape(op.MatMul(mass, values), [1, spec.heads, -1, size])
        return mixed

    return attend
