"""The weights of a transformers folder, read one tensor at a time.

`model.safetensors`, or the shards that `model.safetensors.index.json` lists. A tensor becomes
numpy float32 when it is asked for and is kept by nobody, so an export needs memory for what it
writes and for the largest tensor, never for the checkpoint twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from edge_mm_export.errors import ExportError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")

Weights = Mapping[str, npt.NDArray[np.floating]]


def open_weights(folder: Path) -> Weights:
    """Open the safetensors of `folder` without reading a tensor.

    Raises `ExportError` for a folder without safetensors (pickled checkpoints are never opened;
    the message has the command that converts one), a missing or damaged shard, or a tensor that
    the index lists and its shard lacks.
    """
    index, single = folder / INDEX, folder / SINGLE
    if index.is_file():
        return SafetensorsWeights(_open_shards(folder, _read_index(index)))
    if single.is_file():
        opened = _open(single)
        return SafetensorsWeights(dict.fromkeys(opened.keys(), opened))
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ExportError(
            f"{folder} holds {pickled[0]}, a pickle that could run code when opened; convert it "
            'where you trust it: python -c "from transformers import AutoModel; AutoModel'
            f".from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
        )
    raise ExportError(f"{folder} has neither {SINGLE} nor {INDEX}: is it a transformers folder?")


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a folder that `open_weights` opens."""
    if (folder / INDEX).is_file():
        return tuple(folder / name for name in sorted(set(_read_index(folder / INDEX).values())))
    return (folder / SINGLE,)


class WeightsOf(Weights):
    """Weights made of what `source` has under the same names, when they are asked for."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor
        return name in self._source

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


class SafetensorsWeights(WeightsOf):
    """Tensors by name; each access reads one from its file as float32."""

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        tensor = self._source[name].get_tensor(name)
        array: npt.NDArray[np.floating] = tensor.float().numpy()
        return array


class StateWeights(WeightsOf):
    """A state dict whose tensors become float32 arrays one at a time.

    Reading one raises `ExportError` if it has values that are not finite.
    """

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        tensor = self._source[name].detach()
        if not tensor.isfinite().all():
            raise ExportError(
                f"the checkpoint's {name} has values that are not finite: download it again"
            )
        array: npt.NDArray[np.floating] = tensor.float().numpy()
        return array


class RenamedWeights(WeightsOf):
    """Weights under other names: `rename(name)` is the name that `weights` has it under."""

    def __init__(self, weights: Weights, rename: Callable[[str], str]) -> None:
        super().__init__(weights)
        self._rename = rename

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        array: npt.NDArray[np.floating] = self._source[self._rename(name)]
        return array

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._rename(name) in self._source


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    try:
        files = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise ExportError(f"{path} has no weight_map: download the checkpoint again") from None
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise ExportError(f"{path} names a shard outside its folder: {name!r}")
    return dict(files)


def _open_shards(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    missing = [name for name in sorted(set(files.values())) if not (folder / name).is_file()]
    if missing:
        raise ExportError(
            f"{folder} lacks {missing[0]}, one of {len(missing)} missing shards that {INDEX} "
            "lists: download the checkpoint again"
        )
    opened = {name: _open(folder / name) for name in sorted(set(files.values()))}
    held = {name: set(file.keys()) for name, file in opened.items()}
    for tensor, name in files.items():
        if tensor not in held[name]:
            raise ExportError(
                f"{folder / name} has no tensor {tensor!r}, which {INDEX} says it holds: "
                "download the checkpoint again"
            )
    return {tensor: opened[name] for tensor, name in files.items()}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ExportError(f"{path} is damaged or cut short ({error}): download it again") from None
