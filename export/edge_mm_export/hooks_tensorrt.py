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
    constant,
    join_heads,
    position_input,
    rope_tables,
    split_heads,
)


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
    tables = rope_tables(graph, spec, dtype)

    def norm(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        gain = constant(graph, weight, f"{name}.weight", dtype)
        normed: ir.Value = op.RMSNormalization(x, gain, axis=-1, epsilon=spec.norm_eps)
        return normed

    def add_norm(
        x: ir.Value, residual: ir.Value, name: str, weight: FloatArray
    ) -> tuple[ir.Value, ir.Value]:
        total = op.Add(x, residual)
        return norm(total, name, weight), total

    def attention(qkv: ir.Value, layer: int) -> Attended:
        query, key, value = split_heads(graph, spec, qkv)
        query, key = (op.RotaryEmbedding(x, *tables, position_ids) for x in (query, key))
        keys, values = (
            op.TensorScatter(cache, new, write_indices, axis=2)
            for cache, new in zip(past[layer], (key, value), strict=True)
        )
        # A mask of its own: TensorRT-RTX 1.7 fails where two attentions of bf16 share one ("Error
        # while verifying IR ... more than one op named").
        mask = op.Unsqueeze(visible(), [0, 1])
        mixed = op.Attention(query, keys, values, mask)
        return Attended(join_heads(graph, spec, mixed), keys, values)

    return Hooks(dtype, linear, norm, add_norm, attention)
