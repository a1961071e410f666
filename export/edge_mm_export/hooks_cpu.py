"""The `cpu` target: ONNX Runtime's contrib kernels for a decoder (com.microsoft).

Attention is GroupQueryAttention: it rotates, appends to the cache and attends in one kernel, and
writes the cache in place when past and present are bound to one buffer. Weights are plain
matrices (fp32) or MatMulNBits in 8 bits (int8).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.hooks import Attended, FloatArray, Hooks, initializer
from edge_mm_export.quantise import BLOCK, quantise_blocks

_INT8_ACTIVATIONS = 4  # MatMulNBits accuracy_level: multiply in int8, sum in fp32


def cpu_hooks(graph: GraphBuilder, spec: DecoderSpec, precision: str) -> Hooks:
    """Declare the cache inputs on `graph` and return its hooks; precision is "fp32" or "int8".

    Inputs: `past_key_values.{i}.key|value` f32 [1, kv_heads, capacity, head_dim], `seqlens_k`
    i32 [1] (tokens in the cache after this pass, minus one), `total_sequence_length` i32 [1].
    """
    op = graph.op
    contrib = graph.opset("com.microsoft", 1)
    cache_shape: list[int | str | None] = [1, spec.kv_heads, "capacity", spec.head_dim]
    past = [
        [
            graph.input(f"past_key_values.{i}.{part}", ir.DataType.FLOAT, cache_shape)
            for part in ("key", "value")
        ]
        for i in range(spec.layers)
    ]
    seqlens_k = graph.input("seqlens_k", ir.DataType.INT32, [1])
    total_length = graph.input("total_sequence_length", ir.DataType.INT32, [1])
    cosines, sines = (graph.initializer(t) for t in _rope_tables(spec))

    def linear_fp32(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        product: ir.Value = op.MatMul(x, graph.initializer(initializer(weight.T, f"{name}.weight")))
        return product

    def linear_int8(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        rows, columns = weight.shape
        packed = quantise_blocks(weight)
        product: ir.Value = contrib.MatMulNBits(
            x,
            graph.initializer(initializer(packed.values, f"{name}.weight_int8")),
            graph.initializer(initializer(packed.scales, f"{name}.scales")),
            N=rows,
            K=columns,
            bits=8,
            block_size=BLOCK,
            accuracy_level=_INT8_ACTIVATIONS,
        )
        return product

    def norm(x: ir.Value, name: str, weight: FloatArray) -> ir.Value:
        gain = graph.initializer(initializer(weight, f"{name}.weight"))
        normed: ir.Value = op.RMSNormalization(x, gain, axis=-1, epsilon=spec.norm_eps)
        return normed

    def add_norm(
        x: ir.Value, residual: ir.Value, name: str, weight: FloatArray
    ) -> tuple[ir.Value, ir.Value]:
        gain = graph.initializer(initializer(weight, f"{name}.weight"))
        normed, _, _, total = contrib.SkipSimplifiedLayerNormalization(
            x, residual, gain, epsilon=spec.norm_eps, _outputs=4
        )
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
        return Attended(output, key, value)

    linear = {"fp32": linear_fp32, "int8": linear_int8}[precision]
    return Hooks(linear, norm, add_norm, attention)


def _rope_tables(spec: DecoderSpec) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
    """Cosines and sines [context, head_dim/2] of the rotary embedding (arXiv:2104.09864)."""
    frequencies = spec.rope_theta ** -(np.arange(0, spec.head_dim, 2) / spec.head_dim)
    angles = np.outer(np.arange(spec.context), frequencies)
    return (
        initializer(np.cos(angles).astype(np.float32), "rope.cosines"),
        initializer(np.sin(angles).astype(np.float32), "rope.sines"),
    )
