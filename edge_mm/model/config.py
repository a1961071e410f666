"""What a checkpoint says about itself: geometry of every part, image transform, grounding.

`config.json` beside `model.safetensors` is one `ModelConfig`, read strictly: an unknown key or a
newer schema is an error, never a guess. No torch here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_mm_runtime.image import ImageTransform

SCHEMA = 1


class VisionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """EfficientNet-Lite0 features fused at stride 8, then a transformer over coarse tokens."""

    image_size: int = 240
    neck_channels: int = 96
    token_grid: int = 10
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    intermediate_size: int = 768

    @property
    def tokens(self) -> int:
        return self.token_grid**2

    @property
    def cells(self) -> int:
        """Side of the fine grid at stride 8 on which the region head points."""
        return self.image_size // 8


class RegionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The head that turns the hidden state of `<box>` or `<point>` into a place."""

    key_size: int = 64


class LanguageConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Llama decoder; the names follow transformers' `LlamaConfig`."""

    vocab_size: int = 1280
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 512
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5


class GroundingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the model speaks places, and what was fitted on held-out data.

    box_source              who gives the reported box: the region head, or the location tokens
    existence_threshold     least share of `<ref>` against `<none>` for "it is there"
    confidence_temperature  see edge_mm_runtime.confidence.calibrate
    """

    codec: Literal["edge_mm"] = "edge_mm"
    bins: int = 128
    box_source: Literal["head", "tokens"] = "head"
    existence_threshold: float | None = None
    confidence_temperature: float | None = None


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything but the weights."""

    name: str = "nano"
    schema: int = SCHEMA
    image: ImageTransform = msgspec.field(
        default_factory=lambda: ImageTransform(
            kind="squash", width=240, height=240, mean=(127 / 255,) * 3, std=(128 / 255,) * 3
        )  # as the backbone was trained
    )
    vision: VisionConfig = msgspec.field(default_factory=VisionConfig)
    regions: RegionConfig = msgspec.field(default_factory=RegionConfig)
    language: LanguageConfig = msgspec.field(default_factory=LanguageConfig)
    grounding: GroundingConfig = msgspec.field(default_factory=GroundingConfig)
