"""A run on disk: what a resumed run needs to go on as if it had not stopped. Never pickle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edge_mm.model.checkpoint import replace_folder

PARTS = "optimizer"  # folder with the optimiser state of processes that share a model


def save_state(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    progress: Mapping[str, Any],
    parts: Path | None = None,
) -> None:
    """One safetensors file a group and progress.json, into a new folder that replaces the old.

    `parts` is a folder that is moved there too.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, group in tensors.items():
        copies = {key: value.detach().contiguous().clone() for key, value in group.items()}
        save_file(copies, str(temporary / f"{name}.safetensors"))
    (temporary / "progress.json").write_text(json.dumps(progress))
    if parts is not None:
        parts.rename(temporary / PARTS)
    replace_folder(folder, temporary)


def load_state(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """What `save_state` wrote, also when the power went while it replaced the folder."""
    saved = _saved(folder)
    if saved is None:
        return None
    groups = {p.stem: load_file(str(p)) for p in saved.glob("*.safetensors")}
    return groups, json.loads((saved / "progress.json").read_text())


def saved_parts(folder: Path) -> Path | None:
    """The `parts` that `save_state` took along, if any."""
    saved = _saved(folder)
    return saved / PARTS if saved is not None and (saved / PARTS).is_dir() else None


def _saved(folder: Path) -> Path | None:
    for candidate in (folder, folder.with_name(folder.name + ".old")):
        if (candidate / "progress.json").is_file():
            return candidate
    return None


def keep_optimizers(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Optimiser state by the parameter's name and the state's key.

    Of `Losses` the model's parameters have the names that they have in the model.
    """
    names = {id(parameter): name for name, parameter in _named(model).items()}
    return {
        f"{names[id(parameter)]}|{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizers(
    model: nn.Module, optimizers: list[torch.optim.Optimizer], saved: Mapping[str, Tensor]
) -> None:
    """The inverse of `keep_optimizers`; what no longer learns is left out."""
    by_name = _named(model)
    owner = {
        id(parameter): optimizer
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name_and_key, value in saved.items():
        name, key = name_and_key.split("|")
        parameter = by_name.get(name)
        if parameter is not None and id(parameter) in owner:
            if value.shape == parameter.shape:  # in the parameter's own memory format
                value = torch.empty_like(parameter).copy_(value)
            owner[id(parameter)].state[parameter][key] = value


def _named(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name.removeprefix("model."): p for name, p in module.named_parameters()}
