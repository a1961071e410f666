"""Checkpoints: a folder of config.json, model.safetensors, tokenizer.json. Written whole or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_mm.model.config import SCHEMA, ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_runtime.errors import EdgeMMError

WEIGHTS = "model.safetensors"


class CheckpointError(EdgeMMError):
    """A checkpoint folder that cannot be used; the message says which file and why."""


def save_checkpoint(
    folder: Path,
    model: EdgeMM,
    weights: dict[str, Tensor],
    tokenizer: Tokenizer,
    extra: dict[str, str],
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write a checkpoint to `folder`, replacing what is there in one rename.

    `weights` may be an average instead of the model's own; `extra` are further text files by name.
    """
    folder = Path(folder)
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if folder.is_dir():  # the card and what a person put beside the weights stay
        for path in folder.iterdir():
            shutil.copy2(path, temporary / path.name)
    (temporary / "config.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(model.config), indent=2) + b"\n"
    )
    tied = tied_weights(model)
    kept = {
        name: tensor.to(dtype).contiguous() for name, tensor in weights.items() if name not in tied
    }
    save_file(kept, str(temporary / WEIGHTS), metadata={"format": "pt"})
    tokenizer.save(str(temporary / "tokenizer.json"))
    for name, text in extra.items():
        (temporary / name).write_text(text)
    replace_folder(folder, temporary)


def replace_folder(folder: Path, by: Path) -> None:
    """Rename `by` to `folder`; what was there is deleted only once the new one is in place."""
    previous = folder.with_name(folder.name + ".old")
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    by.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def load_config(folder: Path) -> ModelConfig:
    path = Path(folder) / "config.json"
    try:
        raw = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a checkpoint: config.json is missing") from error
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if isinstance(raw, dict) and raw.get("schema", SCHEMA) != SCHEMA:
        raise CheckpointError(f"{path} has schema {raw['schema']}, this version reads {SCHEMA}")
    try:
        return msgspec.convert(raw, ModelConfig)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_model(folder: Path) -> EdgeMM:
    """A checkpoint as an fp32 model in eval mode."""
    model = EdgeMM(load_config(folder))
    weights = _read_weights(Path(folder))
    for name, embedding in tied_weights(model).items():
        weights[name] = weights.get(embedding, torch.empty(0))
    _load(model, weights, Path(folder))
    return model.eval()


def tied_weights(model: EdgeMM) -> dict[str, str]:
    """The head's weight -> the embedding's, by name, where they are one tensor, stored once."""
    embedding, head = model.lm.get_input_embeddings(), model.lm.get_output_embeddings()
    if head.weight is not embedding.weight:
        return {}
    names = {module: name for name, module in model.named_modules()}
    return {f"{names[head]}.weight": f"{names[embedding]}.weight"}


def load_backbone(model: EdgeMM, folder: Path) -> None:
    """Pretrained weights into the eye of the vision tower."""
    if not folder.is_dir():
        raise CheckpointError(
            f"no pretrained weights at {folder}: run in a checkout of edge_mm, or "
            "set model.backbone to their folder, or to null for random weights"
        )
    _load(model.vision.backbone, _read_weights(folder), folder)


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        return {name: tensor.float() for name, tensor in load_file(str(path)).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _load(module: nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:  # names or shapes; torch lists them all
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{folder / WEIGHTS} does not fit its model: {first}") from error
