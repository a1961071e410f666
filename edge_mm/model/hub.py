"""What is read of transformers models in a folder or in the Hugging Face cache.

Nothing is downloaded unless the recipe says `download: true`, and a weight that is missing is an
error, never a random number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from edge_mm_runtime.errors import MissingExtraError, UsageError
from edge_mm_runtime.extras import require

# Of no account for the geometry, or true of the original weights only.
NOT_STORED = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "label_names",
    "num_classes",
    "quantization_config",
    "transformers_version",
)


def stored(config: PreTrainedConfig) -> dict[str, Any]:
    """A transformers configuration -> what config.json of a checkpoint keeps of it."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in values.items() if name not in NOT_STORED}


def restored(values: dict[str, Any], what: str) -> PreTrainedConfig:
    """The inverse of `stored`; `what` is the recipe's key, for messages. UsageError if unusable."""
    model_type = values["model_type"]
    if model_type not in CONFIG_MAPPING:
        raise UsageError(
            f"{what}.config: transformers {transformers.__version__} knows no model_type "
            f"{model_type!r}"
        )
    if model_type == "timm_wrapper":
        require_timm()
    try:
        return AutoConfig.for_model(**values)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise UsageError(f"{what}.config of type {model_type!r}: {_first_line(error)}") from error


def read_config(name: str, download: bool, what: str) -> PreTrainedConfig:
    """config.json of a folder or of the cache."""
    path = fetch(name, "config.json", download)
    if path is None:
        raise UsageError(_not_found(name, what))
    if json.loads(path.read_text()).get("architecture"):  # timm's own kind of config.json
        require_timm()
    try:
        return AutoConfig.from_pretrained(name, local_files_only=not download)
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} {name}: {_first_line(error)}") from error


def read_weights(
    auto_class: Any, name: str, config: PreTrainedConfig, download: bool, what: str
) -> PreTrainedModel:
    """The model in fp32 and eval mode, its weights being all there."""
    try:
        model, report = auto_class.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            local_files_only=not download,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"{what} {name}: {_first_line(error)}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        example = min(map(str, report["missing_keys"] or report["mismatched_keys"]))
        raise UsageError(
            f"{what} {name} has no fitting weights for a {type(model).__name__} (e.g. {example}): "
            "its config.json names another kind of model"
        )
    return model.eval()


def fetch(name: str, file: str, download: bool) -> Path | None:
    """A file of a folder, of the cache, or of the hub if `download`; None if it is not there."""
    try:
        path = cached_file(
            name,
            file,
            local_files_only=not download,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, HFValidationError):
        return None
    return None if path is None else Path(path)


def require_timm() -> None:
    """MissingExtraError unless timm can be imported."""
    try:
        require("timm", "timm")
    except RuntimeError as error:  # a torchvision that was built for another torch
        raise MissingExtraError("timm", "timm", f"cannot be loaded ({error})") from None


def _not_found(name: str, what: str) -> str:
    return (
        f"{what} {name!r} is neither a folder with a config.json nor in the Hugging Face cache: "
        f"correct {what}.name, or let it be fetched with {what}.download: true"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
