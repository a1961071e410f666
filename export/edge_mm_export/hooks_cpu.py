"""The `cpu` and `cuda` targets: ONNX Runtime's contrib kernels for a decoder (com.microsoft).

Attention is GroupQueryAttention: it rotates, appends to the cache and attends in one kernel, and
writes the cache in place when past and present are bound to one buffer. `cuda` computes in fp16;
its graphs run on the CPU provider too, which has all of these kernels in fp16.
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
    rope_tables,
)


def contrib_hooks(
    graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType, linear: Linear
) -> Hooks:
    """Declare the cache inputs on `graph` and return its hooks.

    Inputs: `past_key_values.{i}.key|value` [1, kv_heads, capacity, head_dim], `seqlens_k`
    i32 [1] (tokens in the cache after this pass, minus one), `total_sequence_length` i32 [1].
    """
    op = graph.op
    contrib = graph.opset("com.microsoft", 1)
    past = cache_inputs(graph, spec, dtype, "capacity")
    seqlens_k = graph.input("seqlens_k", ir.DataType.INT32, [1])
    total_length = graph.input("total_sequence_length", ir.DataType.INT32, [1])
    cosines, sines = rope_tables(graph, spec, dtype)

    def norm(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        gain = constant(graph, weight, f"{name}.weight", dtype)
        normed: ir.Value = op.RMSNormalization(x, gain, axis=-1, epsilon=spec.norm_eps)
        return normed

    def add_norm(
        x: ir.Value, residual: ir.Value, name: str, weight: FloatArray
    ) -> tuple[ir.Value, ir.Value]:
        gain = constant(graph, weight, f"{name}.weight", dtype)
        normed, _, _, total = contrib.SkipSimplifiedLayerNormalization(
            x, residual, gain, epsilon=spec.norm_eps, _outputs=4
        )
        for value in (normed, total):  # a contrib kernel has no schema that would tell
            value.type = ir.TensorType(dtype)
        return normed, total

    def attention(qkv: ir.Value, layer: int) -> Attended:
        output, key, value = contrib.GroupQueryAttention(
            qkv,
            None,
            None,
            *past[layer],
            seqlens_k,
            total_length,
            cosines,
            sines,
            num_heads=spec.heads,
            kv_num_heads=spec.kv_heads,
            do_rotary=1,
            _outputs=3,
        )
        output.type = ir.TensorType(dtype)
        return Attended(output, key, value)

    return Hooks(dtype, linear, norm, add_norm, attention)
