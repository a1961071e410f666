"""The JSON files of a transformers folder, and what kind of model it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from edge_mm_export.errors import ExportError, UnsupportedError

TOKENIZER = "tokenizer.json"


def is_transformers(folder: Path) -> bool:
    """Whether a folder is in the format of transformers, and not one of our checkpoints.

    A folder that cannot be read is taken for ours, which says what is wrong with it.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ("model_type" in config or "architectures" in config)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file, ExportError for a damaged one."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} is damaged: {error}: download it again") from None
    if not isinstance(found, dict):
        raise ExportError(f"{path} is no JSON object: download it again")
    return found


def check_answers_pictures(folder: Path, family: str, has_text_config: bool) -> None:
    """Raise UnsupportedError for what transformers knows as no vision-language model."""
    if family in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        if has_text_config:
            return
        raise UnsupportedError(
            f"{folder}: family {family!r} reads pictures otherwise than as rows of a decoder's "
            "sequence: the exporter cannot draw it"
        )
    if family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedError(
            f"{folder} is a {family}: a language model alone answers no picture; give a "
            "vision-language model, or train one around it (docs/components.md)"
        )
    raise UnsupportedError(
        f"{folder} is a {family}, which answers no question about a picture: give a "
        "vision-language model"
    )
