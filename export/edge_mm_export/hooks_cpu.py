"""The `cpu` and `cuda` targets: ONNX Runtime's contrib kernels for a decoder (com.microsoft).

Attention is GroupQueryAttention: it rotates, appends to the cache and attends in one kernel, and
writes the cache in place when past and present are bound to one buffer. `cuda` computes in fp16;
its graphs run on the CPU provider too, which has all of these kernels in fp16.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.errors import UnsupportedError
from edge_mm_export.hooks import (
    Attended,
    FloatArray,
    Hooks,
    Linear,
    cache_inputs,
    constant,
    rms_norm,
)
from edge_mm_export.mask import input_named, visibility
from edge_mm_export.rope import Rope, Tables

_HIDDEN = -6e4  # added to a score that must not count; fp16 holds it


def contrib_hooks(
    graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType, linear: Linear
) -> Hooks:
    """Declare the cache inputs on `graph` and return its hooks.

    Inputs: `past_key_values.{i}.key|value` [1, kv_heads, capacity, head_dim], `seqlens_k`
    i32 [1] (tokens in the cache after this pass, minus one), `total_sequence_length` i32 [1].
    """
    rotary_dim = spec.rotary_dim or spec.head_dim
    if rotary_dim % 16:
        raise UnsupportedError(
            f"{spec.family}: a rotary size of {rotary_dim} is not supported on the targets cpu and "
            "cuda (GroupQueryAttention turns multiples of 16); tensorrt and tensorrt-10.3 have it"
        )
    contrib = graph.opset("com.microsoft", 1)
    past = cache_inputs(graph, spec, dtype, "capacity")
    seqlens_k = graph.input("seqlens_k", ir.DataType.INT32, [1])
    total_length = graph.input("total_sequence_length", ir.DataType.INT32, [1])
    rope = Rope(graph, spec, dtype)
    biases = _biases(graph, spec, dtype, total_length)

    norm = rms_norm(graph, spec, dtype)

    def add_norm(
        x: ir.Value, residual: ir.Value, name: str, weight: FloatArray
    ) -> tuple[ir.Value, ir.Value]:
        if dtype == ir.DataType.FLOAT:
            # On the CPU the joint kernel takes twice as long as its two parts do.
            total: ir.Value = graph.op.Add(x, residual)
            return norm(total, name, weight), total
        gain = constant(graph, weight, f"{name}.weight", dtype)
        normed, _, _, total = contrib.SkipSimplifiedLayerNormalization(
            x, residual, gain, epsilon=spec.norm_eps, _outputs=4
        )
        for value in (normed, total):  # a contrib kernel has no schema that would tell
            value.type = ir.TensorType(dtype)
        return normed, total

    def attention(qkv: ir.Value, layer: int) -> Attended:
        tables = rope.tables(layer)
        if tables is not None and rope.by_axes:  # the kernel turns by places in the cache only
            qkv, tables = _turned(graph, spec, qkv, tables), None
        output, key, value = contrib.GroupQueryAttention(
            qkv,
            None,
            None,
            *past[layer],
            seqlens_k,
            total_length,
            *(tables or (None, None) if biases else tables or ()),
            *((None, biases[layer]) if biases else ()),
            num_heads=spec.heads,
            kv_num_heads=spec.kv_heads,
            do_rotary=int(tables is not None),
            **_options(spec, layer),
            _outputs=3,
        )
        output.type = ir.TensorType(dtype)
        return Attended(output, key, value)

    return Hooks(dtype, linear, norm, add_norm, attention)


def _options(spec: DecoderSpec, layer: int) -> dict[str, float | int]:
    """What a layer's attention does otherwise than the kernel's defaults."""
    given: dict[str, float | int | None] = {
        "scale": spec.attention_scale,
        "softcap": spec.attention_softcap,
        "local_window_size": None if spec.bidirectional else spec.window(layer),
        "causal": 0 if spec.bidirectional else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _biases(
    graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType, total_length: ir.Value
) -> list[ir.Value]:
    """What is added to each layer's scores [1, 1, S, total] where attention is not just causal."""
    if spec.bidirectional is None:
        return []
    op = graph.op
    zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
    total = op.Squeeze(op.Cast(total_length, to=ir.DataType.INT64), [0])
    count = op.Squeeze(op.Shape(input_named(graph, "input_ids"), start=1, end=2), [0])
    places, every = op.Range(op.Sub(total, count), total, one), op.Range(zero, total, one)
    visible = visibility(graph, spec, places, every)
    nothing = constant(graph, np.array(0.0), "attention.seen", dtype)
    hidden = constant(graph, np.array(_HIDDEN), "attention.hidden", dtype)

    @functools.cache
    def bias(window: int | None) -> ir.Value:
        added = op.Where(visible(window), nothing, hidden)
        drawn: ir.Value = op.Unsqueeze(added, [0, 1])
        return drawn

    return [bias(spec.window(layer)) for layer in range(spec.layers)]


def _turned(graph: GraphBuilder, spec: DecoderSpec, qkv: ir.Value, tables: Tables) -> ir.Value:
    """Packed queries, keys and values with the first two rotated by tables of this pass."""
    op = graph.op
    turning = spec.heads + spec.kv_heads
    sizes = [turning * spec.head_dim, spec.kv_heads * spec.head_dim]
    queries_keys, values = op.Split(qkv, sizes, axis=-1, _outputs=2)
    turned = op.RotaryEmbedding(queries_keys, *tables, num_heads=turning)
    packed: ir.Value = op.Concat(turned, values, axis=-1)
    return packed
