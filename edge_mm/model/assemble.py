"""A new model around components of transformers: weights, sizes, image transform, tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel

from edge_mm.model import smollm2
from edge_mm.model.components import Channels, LanguageModelConfig, TowerConfig
from edge_mm.model.config import LanguageConfig, ModelConfig, VisionConfig, own_image
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.hub import fetch, read_config, read_weights, stored
from edge_mm.model.languages import check_parts, language_config, random_language_model
from edge_mm.model.towers import open_tower
from edge_mm.model.vocabulary import extend_tokenizer
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import ImageTransform

NOISE = 0.1  # of the standard deviation of the known embeddings, so that no two new ones are alike
HALVES: Channels = (0.5, 0.5, 0.5)


def assemble(
    *,
    tower: TowerConfig | None,
    language_model: LanguageModelConfig | None,
    vision: VisionConfig,
    language: LanguageConfig,
    **parts: Any,
) -> tuple[EdgeMM, Tokenizer | None]:
    """A new model of these components, and the tokenizer of its language model.

    `parts` are further fields of `ModelConfig`. Of `vision` a tower takes `neck_channels` only, of
    `language` a language model takes nothing. The tokenizer is None where the language model has
    none of its own: ours, and random weights.
    """
    encoder = lm = tokenizer = None
    parts.setdefault("image", own_image(vision))
    if tower is not None:
        encoder, tower, vision = open_tower(tower, vision)
        mean, std = _normalisation(tower)
        tower = msgspec.structs.replace(tower, mean=mean, std=std)
        size = vision.image_size
        parts["image"] = ImageTransform("squash", size, size, mean=mean, std=std)
    if language_model is not None:
        bins = ModelConfig().grounding.bins
        lm, language_model, language, tokenizer = open_language_model(language_model, bins)
    try:
        config = ModelConfig(
            tower=tower, language_model=language_model, vision=vision, language=language, **parts
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    model = EdgeMM(config)
    if encoder is not None:
        model.vision.encoder.load_state_dict(encoder.state_dict())
    if lm is not None:
        model.lm.load_state_dict(lm.state_dict())
    return model, tokenizer


def open_language_model(
    asked: LanguageModelConfig, bins: int
) -> tuple[PreTrainedModel, LanguageModelConfig, LanguageConfig, Tokenizer | None]:
    """The language model with its weights, both configurations, and its own tokenizer.

    The tokenizer knows our special and location tokens, and the embeddings have rows for them. It
    is None for random weights: those have no words yet.
    """
    tokenizer = None
    if asked.name is None:
        lm = random_language_model(asked).eval()
    else:
        source = str(smollm2.converted()) if asked.name == smollm2.PACKAGE else asked.name
        config = read_config(source, asked.download, "language_model")
        lm = read_weights(AutoModelForCausalLM, source, config, asked.download, "language_model")
        own = _own_tokenizer(source, asked.download)
        tokenizer = extend_tokenizer(own, bins)
        extend_embeddings(lm, own, tokenizer)
    check_parts(lm)
    known = msgspec.structs.replace(asked, config=stored(lm.config))
    return lm, known, language_config(lm.config), tokenizer


@torch.no_grad()
def extend_embeddings(lm: PreTrainedModel, own: Tokenizer, extended: Tokenizer) -> None:
    """Rows in the embeddings of `lm` for what `extended` knows and its `own` tokenizer does not.

    A new row is the mean of the known ones (so none of the new tokens takes over the softmax;
    Hewitt 2021) and a little noise. Rows that `lm` has in reserve are used first.
    """
    known = set(own.get_vocab().values())
    ids = set(extended.get_vocab().values())
    rows = lm.get_input_embeddings().weight.shape[0]
    if max(ids) >= rows:
        lm.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    old, new = (torch.tensor(sorted(some)) for some in (known, ids - known))
    tables = [lm.get_input_embeddings().weight, lm.get_output_embeddings().weight]
    for table in tables if tables[0] is not tables[1] else tables[:1]:
        deviation, mean = torch.std_mean(table[old], 0)
        table[new] = mean + NOISE * deviation * torch.randn(len(new), table.shape[1])


def _own_tokenizer(source: str, download: bool) -> Tokenizer:
    path = fetch(source, "tokenizer.json", download)
    if path is None:
        raise UsageError(f"language_model {source} has no tokenizer.json beside its weights")
    return Tokenizer.from_file(str(path))


def _normalisation(tower: TowerConfig) -> tuple[Channels, Channels]:
    """Mean and std of the pictures that the tower was trained on."""
    if tower.mean and tower.std:
        return tower.mean, tower.std
    found = _preprocessor(tower)
    if found is None:
        raise UsageError(
            f"tower {tower.name} does not say how pictures are normalised (it has no "
            "preprocessor_config.json): set tower.mean and tower.std"
        )
    return tower.mean or found[0], tower.std or found[1]


def _preprocessor(tower: TowerConfig) -> tuple[Channels, Channels] | None:
    if tower.name is None:
        return HALVES, HALVES
    timm = tower.config.get("pretrained_cfg", {})
    if "mean" in timm:
        return tuple(timm["mean"]), tuple(timm["std"])
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = fetch(tower.name, name, tower.download)
        values = _json(path).get("image_processor", _json(path)) if path else {}
        if "image_mean" in values:
            return tuple(values["image_mean"]), tuple(values["image_std"])
    return None


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values
