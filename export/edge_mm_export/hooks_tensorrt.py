"""The `tensorrt` target (>= 10.15, TensorRT-RTX): standard operators of opset 24, strongly typed.

The cache has a fixed capacity. TensorScatter writes the new keys and values into it in place
(TensorRT's KVCacheUpdate: the cache must be an input of the network and the update an output).
Attention gets them whole, with an explicit mask: TensorRT silently drops `nonpad_kv_seqlen`.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.hooks import (
    Attended,
    FloatArray,
    Hooks,
    Linear,
    cache_inputs,
    join_heads,
    position_input,
    rms_norm,
    split_heads,
)
from edge_mm_export.hooks_primitive import primitive_attention
from edge_mm_export.rope import Rope


def tensorrt_hooks(
    graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType, linear: Linear
) -> Hooks:
    """Declare the cache inputs on `graph` and return its hooks.

    Inputs: `past_key_values.{i}.key|value` [1, kv_heads, context, head_dim], `position_ids`
    i64 [1, S] (the new tokens' places in the cache), `write_indices` i64 [1] (the first of them).
    """
    op = graph.op
    past = cache_inputs(graph, spec, dtype, spec.context)
    position_ids, visible = position_input(graph, spec)
    write_indices = graph.input("write_indices", ir.DataType.INT64, [1])
    rope = Rope(graph, spec, dtype)
    options = {} if spec.attention_scale is None else {"scale": spec.attention_scale}
    # Soft-capping inside of Attention is not known to be in any of TensorRT's kernels.
    attend = None if spec.attention_softcap is None else primitive_attention(graph, spec, dtype)

    norm = rms_norm(graph, spec, dtype)

    def add_norm(
        x: ir.Value, residual: ir.Value, name: str, weight: FloatArray
    ) -> tuple[ir.Value, ir.Value]:
        total = op.Add(x, residual)
        return norm(total, name, weight), total

    def attention(qkv: ir.Value, layer: int) -> Attended:
        query, key, value = split_heads(graph, spec, qkv)
        tables = rope.tables(layer)
        if tables is not None:
            places = () if rope.by_axes else (position_ids,)
            partial = {} if spec.rotary_dim is None else {"rotary_embedding_dim": spec.rotary_dim}
            query, key = (op.RotaryEmbedding(x, *tables, *places, **partial) for x in (query, key))
        keys, values = (
            op.TensorScatter(cache, new, write_indices, axis=2)
            for cache, new in zip(past[layer], (key, value), strict=True)
        )
        seen = visible(spec.window(layer))
        if attend is not None:
            mixed = attend(query, keys, values, seen)
        else:
            # A mask of its own: TensorRT-RTX 1.7 fails where two attentions of bf16 share one
            # ("Error while verifying IR ... more than one op named").
            mixed = op.Attention(query, keys, values, op.Unsqueeze(seen, [0, 1]), **options)
        return Attended(join_heads(graph, spec, mixed), keys, values)

    return Hooks(dtype, linear, norm, add_norm, attention)
