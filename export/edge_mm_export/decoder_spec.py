"""`DecoderSpec`: the few numbers that a decoder graph is built from, and nothing else.

A spec is made from a transformers config and refuses by name whatever the graph builder would
get wrong, so that an unsupported model fails before any weight is read.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edge_mm_export.errors import UnsupportedError

Activation = Literal["silu", "gelu", "gelu_tanh"]


class LinearRope(msgspec.Struct, frozen=True):
    """Every RoPE frequency divided by `factor` (position interpolation, arXiv:2306.15595)."""

    factor: float


class Llama3Rope(msgspec.Struct, frozen=True):
    """Llama 3.1's scaling: long waves divided by `factor`, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


class DecoderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Geometry of a decoder with RMS norms, RoPE, grouped-query attention and a gated MLP.

    The defaults are Llama's; each further field is what a family of `families/` does otherwise.
    """

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
    rotated: bool = False
    """The weights are those of a rotated residual stream, see `hadamard.py`."""
    region_size: int | None = None
    """Width K of the `region_query` output; None when the model has no box head."""
    gated_blocks: tuple[int, ...] = ()
    """The layer before which each block of `fusion.py` runs; `layers`: after the last norm."""
    gated_heads: int = 1
    family: str = "llama"
    """transformers' `model_type`, for messages."""
    qkv_bias: bool = False
    output_bias: bool = False
    """The attention's output projection has a bias."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Queries and keys are RMS-normed over each head before they are rotated (Qwen3, Gemma 3)."""
    fused_projections: bool = False
    """The checkpoint stores `qkv_proj` and `gate_up_proj` (Phi-3)."""
    activation: Activation = "silu"
    norm_offset: float = 0.0
    """What is added to every norm's weight: 1 in Gemma."""
    post_norms: bool = False
    """The attention's and the MLP's outputs are normed before they are added (Gemma 2 and 3)."""
    embedding_scale: float = 1.0
    """Token rows are multiplied by it, picture rows are not: sqrt(hidden_size) in Gemma."""
    attention_scale: float | None = None
    """What scores are multiplied by; None: head_dim ** -0.5."""
    attention_softcap: float | None = None
    """c of c * tanh(score / c), before the mask (Gemma 2)."""
    logit_softcap: float | None = None
    sliding_window: int | None = None
    """How many tokens, its own included, a token of a sliding layer sees."""
    sliding_layers: tuple[int, ...] = ()
    nope_layers: tuple[int, ...] = ()
    """Layers that do not rotate queries and keys (SmolLM3)."""
    rotary_dim: int | None = None
    """How many of a head's dimensions are rotated, the first ones; None: all."""
    rope_scaling: LinearRope | Llama3Rope | None = None
    local_rope_theta: float | None = None
    """theta, unscaled, of the sliding layers; None: they share the others' (Gemma 3)."""
    rope_axes: tuple[int, ...] = ()
    """By RoPE frequency: the row of the input `rope_positions` that it turns by (Qwen2-VL); with
    none, every frequency turns by the place in the cache."""

    bidirectional: Literal["picture", "prompt"] | None = None
    """Which tokens see each other both ways: those of the picture (Gemma 3), or all of a pass that
    starts at place 0 (PaliGemma). Either must be given to the graph in one pass."""
    deepstack: int = 0
    """After how many of the first layers further rows of the picture are added (Qwen3-VL)."""

    @property
    def interrupted(self) -> tuple[int, ...]:
        """The layers before which something is added to the residual stream, 0 aside."""
        return self.gated_blocks or tuple(range(1, 1 + self.deepstack))

    def window(self, layer: int) -> int | None:
        """How many tokens a token sees in this layer; None: all that the cache holds."""
        if layer not in self.sliding_layers or self.sliding_window is None:
            return None
        return self.sliding_window if self.sliding_window < self.context else None

    @property
    def image_size(self) -> int:
        """Width of `image_embeds`: a row of the sequence, or every block's keys and values."""
        if self.gated_blocks:
            return 2 * self.hidden_size * len(self.gated_blocks)
        return self.hidden_size * (1 + self.deepstack)

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
