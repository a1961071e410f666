"""The tiny decoder that the exporter draws for TensorRT, with random weights: no torch needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_runtime.bundle import DecoderGeometry

SPEC = DecoderSpec(
    layers=2,
    hidden_size=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate_size=96,
    vocab_size=96,
    norm_eps=1e-5,
    rope_theta=10_000.0,
    tied_embeddings=True,
    context=48,
    region_size=8,
)
GEOMETRY = DecoderGeometry(
    SPEC.layers, SPEC.kv_heads, SPEC.head_dim, SPEC.context, SPEC.vocab_size, SPEC.hidden_size
)
TARGETS = {"tensorrt": "fp16", "tensorrt-10.3": "fp16"}


def decoder(target: str, folder: Path, precision: str | None = None) -> onnx.ModelProto:
    """Its graph of a target; `folder` is written to."""
    path = folder / f"{target}.onnx"
    model = build_decoder(SPEC, _weights(), target=target, precision=precision or TARGETS[target])
    ir.save(model, path)
    return onnx.load(str(path))


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    inner, width = SPEC.intermediate_size, SPEC.hidden_size
    shapes = {"model.embed_tokens.weight": (SPEC.vocab_size, width)}
    for layer in range(SPEC.layers):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (SPEC.heads * SPEC.head_dim, width),
            f"{at}.self_attn.k_proj.weight": (SPEC.kv_heads * SPEC.head_dim, width),
            f"{at}.self_attn.v_proj.weight": (SPEC.kv_heads * SPEC.head_dim, width),
            f"{at}.self_attn.o_proj.weight": (width, SPEC.heads * SPEC.head_dim),
            f"{at}.mlp.gate_proj.weight": (inner, width),
            f"{at}.mlp.up_proj.weight": (inner, width),
            f"{at}.mlp.down_proj.weight": (width, inner),
        }
    shapes["region_query.weight"] = (8, width)
    weights = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    norms = ("input_layernorm", "post_attention_layernorm")
    for name in (f"model.layers.{i}.{norm}.weight" for i in range(SPEC.layers) for norm in norms):
        weights[name] = np.ones(width, np.float32)
    weights["model.norm.weight"] = np.ones(width, np.float32)
    weights["region_query.bias"] = np.zeros(8, np.float32)
    return weights
