"""`DecoderSpec`: the few numbers that a decoder graph is built from, and nothing else.

A spec is made from a transformers config and refuses by name whatever the graph builder would
get wrong, so that an unsupported model fails before any weight is read.
"""

from __future__ import annotations

from typing import Any

import msgspec

from edge_mm_export.errors import UnsupportedError


class DecoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Geometry of a Llama-type decoder (pre-norm, RoPE, grouped-query attention, SwiGLU)."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    tied_embeddings: bool
    context: int
    """Capacity of the KV cache in tokens; also the length of the RoPE tables."""
    region_size: int | None = None
    """Width K of the `region_query` output; None when the model has no box head."""
    gated_blocks: tuple[int, ...] = ()
    """The layer before which each block of `fusion.py` runs; `layers`: after the last norm."""
    gated_heads: int = 1

    @property
    def image_size(self) -> int:
        """Width of `image_embeds`: a row of the sequence, or every block's keys and values."""
        return 2 * self.hidden_size * len(self.gated_blocks) or self.hidden_size

    @property
    def qkv_size(self) -> int:
        """Width of the packed query, key and value projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


def spec_from_llama(
    config: Any, *, context: int | None = None, region_size: int | None = None
) -> DecoderSpec:
    """Read a transformers `LlamaConfig`; `context` defaults to its `max_position_embeddings`.

    Raises `UnsupportedError` naming the first setting that the graph builder does not know.
    """
    if config.model_type != "llama":
        raise UnsupportedError(
            f"decoder family {config.model_type!r} is not supported; the exporter knows 'llama'"
        )
    rope = config.rope_parameters
    expected: dict[str, tuple[object, object]] = {
        "hidden_act": (config.hidden_act, "silu"),
        "attention_bias": (bool(config.attention_bias), False),
        "mlp_bias": (bool(config.mlp_bias), False),
        "rope_type": (rope.get("rope_type", "default"), "default"),
        "partial_rotary_factor": (float(rope.get("partial_rotary_factor", 1.0)), 1.0),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise UnsupportedError(
                f"LlamaConfig.{name}={found!r} is not supported; only {wanted!r}"
            )
    capacity = context or config.max_position_embeddings
    if capacity > config.max_position_embeddings:
        raise UnsupportedError(
            f"context {capacity} is beyond the model's {config.max_position_embeddings} positions"
        )
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    if head_dim % 8:
        raise UnsupportedError(f"head_dim {head_dim} is not supported; it must be a multiple of 8")
    return DecoderSpec(
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        norm_eps=config.rms_norm_eps,
        rope_theta=float(rope["rope_theta"]),
        tied_embeddings=bool(config.tie_word_embeddings),
        context=capacity,
        region_size=region_size,
    )
