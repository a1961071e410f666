"""Recipes: YAML into typed structs, with `--set a.b=c` on top. An unknown key is an error."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import msgspec
import yaml

from edge_mm.model.components import LanguageModelConfig, TowerConfig
from edge_mm.model.config import FusionConfig, LanguageConfig, ProjectorConfig, VisionConfig
from edge_mm_runtime.errors import UsageError

PARTS = ("backbone", "backbone_top", "vision", "projector", "fusion", "regions", "language")
LOSSES = (
    "language",
    "pointing",
    "mentions",
    "places",
    "boxes",
    "looks",
    "sea",
    "sea_words",
    "adversarial",
    "contrastive",
    "info_nce",
    "siglip",
    "hard_negatives",
    "preference",
    "policy",
)


class Lora(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Low-rank adapters on the language model instead of its own weights."""

    rank: int = 16
    alpha: float = 32.0


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What learns (`parts`), from which losses with which weight, for how many steps."""

    name: str
    steps: int
    parts: tuple[str, ...]
    losses: dict[str, float]
    learning_rate: float = 1e-3
    part_rates: dict[str, float] = {}  # a factor on the learning rate of a part, or of `losses`:
    # what siglip and adversarial learn beside the model, in every stage that has them
    warmup: int = 200
    decay: int = 0  # steps at the end in which the rate falls to a tenth of a tenth
    batch_size: int = 32  # samples of a step, over all processes and micro-batches
    accumulate: int = 1  # micro-batches of a step
    lora: Lora | None = None  # on the language model, merged at the end of the stage
    evaluate_every: int = 0  # steps between two looks at data.val; 0: never
    patience: int = 0  # looks without a better loss before the stage ends early; 0: never

    def __post_init__(self) -> None:
        for kind, given, known in (("part", self.parts, PARTS), ("loss", self.losses, LOSSES)):
            for name in given:
                if name not in known:
                    raise ValueError(
                        f"stage {self.name}: unknown {kind} {name!r}, one of {', '.join(known)}"
                    )
        if self.compares and set(self.parts) - {"language", "regions"}:
            raise ValueError(
                f"stage {self.name}: preference and policy compare the decoder with the one that "
                "the stage began with, on the same image tokens: parts may be language and regions"
            )
        alone = self.losses.keys() & {"contrastive", "info_nce", "hard_negatives"}
        if alone and self.batch_size == self.accumulate:
            raise ValueError(
                f"stage {self.name}: {', '.join(sorted(alone))} compare the pictures of a "
                "micro-batch with each other: batch_size must be at least twice accumulate"
            )
        if self.patience and not self.evaluate_every:
            raise ValueError(f"stage {self.name}: patience counts looks: set evaluate_every too")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"stage {self.name}: accumulate {self.accumulate} does not divide batch_size "
                f"{self.batch_size}"
            )

    @property
    def compares(self) -> bool:
        """Whether the stage needs the model that it began with."""
        return bool(self.losses.keys() & {"preference", "policy"})


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Folders with scenes.json; how many questions a picture, how long a packed row.

    `train` may name shards instead (files or patterns that end in .tar), which are streamed.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] = ()  # for evaluate_every; folders
    questions: int = 8
    max_tokens: int = 384
    workers: int = 1  # of each process
    shuffle_buffer: int = 1000  # samples of a stream among which the next one is drawn


class Train(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The loop: seed, precision, clipping, checkpoints, an upper bound on steps for trials."""

    seed: int = 0
    precision: str = "bf16"
    weight_decay: float = 0.05
    clip: float = 1.0
    average: float = 0.999  # exponential moving average of the weights, which is what is saved
    checkpoint_minutes: float = 5.0
    log_every: int = 20
    trace: int = 0  # looks at fixed pictures over the run, for edge-mm report; 0: none
    tensorboard: bool = False  # scalars beside log.jsonl, in out/tensorboard
    max_steps: int | None = None  # of each stage
    threads: int | None = None
    muon: bool = (
        False  # for the matrices of both transformers (torch.optim.Muon), AdamW for the rest
    )
    compile: bool = False  # the language model, by torch.compile: slower to start, then faster
    activation_checkpointing: bool = False  # of transformer layers: less memory, a third more work


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Geometry of a new model; `init` starts from a checkpoint folder instead.

    backbone        folder with the pretrained weights of the vision tower's eye; None: random
    tower           a vision tower of transformers instead; of `vision` it takes neck_channels
    language_model  a language model of transformers instead; `language` says nothing then
    """

    name: str = "nano"
    init: str | None = None
    backbone: str | None = "models/efficientnet_lite0"
    vision: VisionConfig = msgspec.field(default_factory=VisionConfig)
    projector: ProjectorConfig = msgspec.field(default_factory=ProjectorConfig)
    fusion: FusionConfig = msgspec.field(default_factory=FusionConfig)
    language: LanguageConfig = msgspec.field(default_factory=LanguageConfig)
    tower: TowerConfig | None = None
    language_model: LanguageModelConfig | None = None

    def __post_init__(self) -> None:
        if self.tower is None:
            self.projector.check(self.vision)
        if self.language_model is None:
            self.fusion.check(self.language)


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A training run, whole."""

    data: Data
    stages: tuple[Stage, ...]
    model: Model = msgspec.field(default_factory=Model)
    train: Train = msgspec.field(default_factory=Train)

    def __post_init__(self) -> None:
        policy = [stage.name for stage in self.stages if "policy" in stage.losses]
        if policy and self.train.activation_checkpointing:
            raise ValueError(
                f"stage {policy[0]}: the loss policy says its answers with the decoder's cache, "
                "which train.activation_checkpointing takes away: set it to false"
            )


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a recipe; each override is `a.b=value` with a YAML value (`stages.0.steps=50`)."""
    try:
        raw = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError as error:
        raise UsageError(f"there is no recipe {path}; see recipes/") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}") from error
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"--set wants name=value, this is {override!r}")
        _assign(raw, name.split("."), yaml.safe_load(value), override)
    try:
        return msgspec.convert(raw, Recipe)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}{_suggest(str(error))}") from error


def _assign(raw: Any, names: list[str], value: Any, override: str) -> None:
    *parents, last = names
    for name in parents:
        if isinstance(raw, list):
            raw = raw[_index(name, raw, override)]
        else:
            raw = raw.setdefault(name, {})
    if isinstance(raw, list):
        raw[_index(last, raw, override)] = value
    else:
        raw[last] = value


def _index(name: str, items: list[Any], override: str) -> int:
    if not name.isdigit() or int(name) >= len(items):
        raise UsageError(f"--set {override}: {name!r} is not one of 0..{len(items) - 1}")
    return int(name)


def _suggest(message: str) -> str:
    """The nearest known key, when the message is about an unknown one."""
    known = {
        field
        for struct in (
            Recipe,
            Stage,
            Data,
            Train,
            Model,
            VisionConfig,
            ProjectorConfig,
            FusionConfig,
            LanguageConfig,
            TowerConfig,
            LanguageModelConfig,
        )
        for field in struct.__struct_fields__
    }
    for word in message.split("`"):
        if "unknown field" in message and word not in known and word.isidentifier():
            near = difflib.get_close_matches(word, known, n=1)
            return f" (did you mean {near[0]!r}?)" if near else ""
    return ""
