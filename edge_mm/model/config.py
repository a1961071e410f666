"""What a checkpoint says about itself: geometry of every part, image transform, grounding.

`config.json` beside `model.safetensors` is one `ModelConfig`, read strictly: an unknown key or a
newer schema is an error, never a guess. No torch here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_mm.model.components import LanguageModelConfig, TowerConfig
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
    fine_grid: int | None = None  # side of the fine grid; None: cells of 8 pixels

    @property
    def tokens(self) -> int:
        """Tokens of the tower; the language model reads `ModelConfig.image_tokens`."""
        return self.token_grid**2

    @property
    def cells(self) -> int:
        """Side of the fine grid, at stride 8 or so, on which the region head points."""
        return self.fine_grid or self.image_size // 8


class ProjectorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How features of the vision tower become image tokens of the language model.

    layers          linear layers of an MLP, or blocks of a qformer or perceiver
    factor          pixel_shuffle: factor x factor tokens become one
    queries         qformer, perceiver: how many tokens come out
    heads           qformer, perceiver: of each attention
    feature_layers  multi_scale: the encoder's states that are read, counted as transformers'
                    `vision_feature_layer`: 0 enters its first layer, 1 leaves it, -1 is the last
    """

    kind: Literal["linear", "mlp", "pixel_shuffle", "qformer", "perceiver", "multi_scale"] = "mlp"
    layers: int = 2
    factor: int = 2
    queries: int = 32
    heads: int = 4
    feature_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("layers", 1), ("factor", 2), ("queries", 1), ("heads", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"projector.{name} is {getattr(self, name)}: at least {least}")
        if (self.kind == "multi_scale") != bool(self.feature_layers):
            raise ValueError(
                "projector.feature_layers belongs to kind multi_scale, which needs it "
                f"(e.g. [1, -1]); kind {self.kind} has {list(self.feature_layers)}"
            )

    def check(self, vision: VisionConfig) -> None:
        """ValueError where this projector cannot read the features of that tower."""
        self.grid(vision)
        if self.kind in ("qformer", "perceiver") and vision.hidden_size % self.heads:
            raise ValueError(
                f"projector.heads {self.heads} does not divide vision.hidden_size "
                f"{vision.hidden_size}"
            )
        for layer in self.feature_layers:
            if not -vision.layers - 1 <= layer <= vision.layers:
                raise ValueError(
                    f"projector.feature_layers has {layer}: with {vision.layers} encoder layers "
                    f"it goes from {-vision.layers - 1} to {vision.layers}"
                )

    def grid(self, vision: VisionConfig) -> int | None:
        """Side of the square in which the image tokens lie; None: they have no places."""
        if self.kind in ("qformer", "perceiver"):
            return None
        if self.kind == "pixel_shuffle":
            return shuffled_grid(vision.token_grid, self.factor)
        return vision.token_grid


def shuffled_grid(grid: int, factor: int) -> int:
    """Side of a grid x grid square of tokens after pixel shuffle; ValueError if it has none."""
    if grid % factor:
        divisors = [str(n) for n in range(2, grid + 1) if grid % n == 0]
        raise ValueError(
            f"pixel shuffle by factor {factor} does not divide the token grid {grid} x {grid}: "
            f"take one of {', '.join(divisors)}"
        )
    return grid // factor


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


class FusionConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the language model gets to see the image tokens.

    kind    early: they are rows of its sequence
            cross_attention: gated blocks before some of its layers look at them (Flamingo)
            late: it reads the text alone, and gated blocks after its last layer look at them
    every   cross_attention: a block before every so many-th layer
    layers  late: how many blocks
    heads   cross_attention, late: of each block
    """

    kind: Literal["early", "cross_attention", "late"] = "early"
    every: int = 2
    layers: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("every", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"fusion.{name} is {getattr(self, name)}: at least 1")

    def check(self, language: LanguageConfig) -> None:
        """ValueError where that language model has no room for these blocks."""
        if self.kind == "early":
            return
        if language.hidden_size % self.heads:
            raise ValueError(
                f"fusion.heads {self.heads} does not divide language.hidden_size "
                f"{language.hidden_size}"
            )
        if not self.places(language.num_hidden_layers):
            raise ValueError(
                f"fusion.every {self.every} gives {language.num_hidden_layers} layers no block: "
                f"at most {language.num_hidden_layers}"
            )

    def places(self, layers: int) -> tuple[int, ...]:
        """Before which of so many layers each block runs; `layers`: after the last norm."""
        if self.kind == "cross_attention":
            return tuple(range(self.every - 1, layers, self.every))
        return (layers,) * self.layers if self.kind == "late" else ()


class GroundingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the model speaks places, and what `edge-mm calibrate` fitted on held-out data.

    box_source              who gives the reported box: the region head, or the location tokens
    existence_threshold     least share of `<ref>` against `<none>` for "it is there"
    confidence_temperature  of located things (see edge_mm_runtime.confidence.calibrate); None:
                            their confidence is not calibrated
    words_temperature       of answers in words and of "not in view", likewise
    """

    codec: Literal["edge_mm"] = "edge_mm"
    bins: int = 128
    box_source: Literal["head", "tokens"] = "head"
    existence_threshold: float | None = None
    confidence_temperature: float | None = None
    words_temperature: float | None = None


def own_image(vision: VisionConfig) -> ImageTransform:
    """How our own vision tower wants its pictures: normalised as its backbone was trained."""
    size = vision.image_size
    return ImageTransform(
        kind="squash", width=size, height=size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3
    )


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything but the weights.

    With a `tower` or a `language_model` of transformers, `vision` or `language` repeats its sizes.
    """

    name: str = "nano"
    schema: int = SCHEMA
    image: ImageTransform = msgspec.field(default_factory=lambda: own_image(VisionConfig()))
    vision: VisionConfig = msgspec.field(default_factory=VisionConfig)
    tower: TowerConfig | None = None
    projector: ProjectorConfig = msgspec.field(default_factory=ProjectorConfig)
    fusion: FusionConfig = msgspec.field(default_factory=FusionConfig)
    regions: RegionConfig = msgspec.field(default_factory=RegionConfig)
    language: LanguageConfig = msgspec.field(default_factory=LanguageConfig)
    language_model: LanguageModelConfig | None = None
    grounding: GroundingConfig = msgspec.field(default_factory=GroundingConfig)

    def __post_init__(self) -> None:
        self.projector.check(self.vision)
        self.fusion.check(self.language)
        family = self.language_model and self.language_model.config.get("model_type")
        if self.fusion.kind != "early" and family not in (None, "llama"):
            raise ValueError(f"fusion {self.fusion.kind} needs a Llama, this is a {family}")

    @property
    def image_tokens(self) -> int:
        """Rows of a picture in the language model's sequence: none unless fusion is early."""
        if self.fusion.kind != "early":
            return 0
        grid = self.projector.grid(self.vision)
        return self.projector.queries if grid is None else grid**2
