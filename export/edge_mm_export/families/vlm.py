"""Vision-language models in the transformers folder format: a decoder spec, weights, a tower.

The decoder goes through the graph builder, the tower through `trace_vision`. A picture's rows
take the places of the family's image token: write ids vocab_size, vocab_size + 1, ... there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.errors import UnsupportedError
from edge_mm_export.families.qwen_vl import QwenTower
from edge_mm_export.families.text import decoder_spec, read_config
from edge_mm_export.families.towers import FeatureTower, Idefics3Tower
from edge_mm_export.weights import RenamedWeights, Weights, open_weights


class ImportedVLM(NamedTuple):
    """What the exporter needs of a vision-language model."""

    family: str
    spec: DecoderSpec
    weights: Weights
    vision: nn.Module
    """pixel_values [1, 3, height, width] -> (image_embeds [1, T, D],)"""
    width: int
    height: int
    grid: tuple[int, int] | None = None
    """Rows and columns of a picture's tokens, for `rope_positions` where the spec has axes."""


class _Family(NamedTuple):
    """Where a family keeps its parts."""

    tower: Callable[[Any, int, int], nn.Module]
    """(the model without its head and its language model, width, height) -> tower"""
    language: str = "language_model"
    bidirectional: Literal["picture", "prompt"] | None = None


def _features(model: Any, width: int, height: int) -> nn.Module:
    return FeatureTower(model)


def _idefics3(model: Any, width: int, height: int) -> nn.Module:
    return Idefics3Tower(model)


def _qwen(model: Any, width: int, height: int) -> nn.Module:
    return QwenTower(model.visual, width, height)


FAMILIES: dict[str, _Family] = {
    "llava": _Family(_features),
    "internvl": _Family(_features),
    "idefics3": _Family(_idefics3, "text_model"),
    "smolvlm": _Family(_idefics3, "text_model"),
    "gemma3": _Family(_features, bidirectional="picture"),
    "paligemma": _Family(_features, bidirectional="prompt"),
    "qwen2_vl": _Family(_qwen),
    "qwen2_5_vl": _Family(_qwen),
    "qwen3_vl": _Family(_qwen),
}
"""By transformers' `model_type`."""


_ANY_SIZE = 448
"""Pixels, where a tower takes every size: a multiple of all of their patches."""


def load_vlm(
    folder: Path, *, width: int | None = None, height: int | None = None, context: int | None = None
) -> ImportedVLM:
    """Read the folder of a vision-language model.

    `width` and `height` in pixels are those of the graph: the config's, and 448 or a choice of
    your own for families that take every size. Weights stay in the checkpoint's type and become
    float32 one at a time. Raises `UnsupportedError` for a family, size or setting that is not
    known, `ExportError` for a damaged folder.
    """
    config = read_config(folder)
    family = config.model_type
    if family not in FAMILIES:
        raise UnsupportedError(
            f"vision-language family {family!r} is not one that the importer knows "
            f"({', '.join(FAMILIES)}); trace it with torch.onnx.export(dynamo=True) instead"
        )
    parts = FAMILIES[family]
    if parts.bidirectional == "prompt":  # PaliGemma's config says it of every text config
        config.text_config.use_bidirectional_attention = False
    spec = decoder_spec(config.text_config, context=context)
    width, height = _size(config, width, height)
    open_weights(folder)  # refuses pickles and damaged files by name, before anything is loaded
    model: Any = AutoModelForImageTextToText.from_pretrained(
        folder, dtype="auto", local_files_only=True, use_safetensors=True, trust_remote_code=False
    )
    model.eval()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    prefix = f"model.{parts.language}."
    weights = RenamedWeights(StateWeights(model.state_dict()), lambda name: _moved(name, prefix))
    body = model.model
    setattr(body, parts.language, nn.Identity())  # the tower's trace must not carry the decoder
    vision = parts.tower(body.float(), width, height).eval()
    further = len(getattr(config.vision_config, "deepstack_visual_indexes", ()))
    return ImportedVLM(
        family,
        msgspec.structs.replace(
            spec,
            tied_embeddings=tied,
            bidirectional=parts.bidirectional,
            deepstack=further,
        ),
        weights,
        vision,
        width,
        height,
        vision.grid if isinstance(vision, QwenTower) else None,
    )


def _size(config: Any, width: int | None, height: int | None) -> tuple[int, int]:
    """(width, height) in pixels, as asked for if the tower is not made for one size."""
    fixed = getattr(config.vision_config, "image_size", None)
    if fixed is None:
        return width or _ANY_SIZE, height or _ANY_SIZE
    rows, columns = (fixed, fixed) if isinstance(fixed, int) else fixed
    asked = (width or columns, height or rows)
    if asked != (columns, rows):
        raise UnsupportedError(
            f"{config.model_type}: the tower is made for {columns} x {rows} pixels, not for "
            f"{asked[0]} x {asked[1]}"
        )
    return asked


class StateWeights(Weights):
    """A state dict whose tensors become float32 arrays one at a time."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        array: npt.NDArray[np.floating] = self._state[name].detach().float().numpy()
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._state

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def _moved(name: str, prefix: str) -> str:
    """The builder's `model.layers.0...` as a vision-language model names it."""
    return prefix + name.removeprefix("model.") if name.startswith("model.") else name
