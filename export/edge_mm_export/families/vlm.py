"""Vision-language models in the transformers folder format: a decoder spec, weights, a tower.

The decoder goes through the graph builder, the tower through `trace_vision`. A picture's rows
take the places of the family's image token: write ids vocab_size, vocab_size + 1, ... there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.families.files import check_answers_pictures
from edge_mm_export.families.generic import (
    check_traceable,
    trace_vlm_decoder,
    traced_geometry,
)
from edge_mm_export.families.loading import copied_in_fp32, give_back, load_model, without_part
from edge_mm_export.families.qwen_vl import QwenTower, check_size, patches
from edge_mm_export.families.reference import Given, Reference, Types, computes_in_fp32
from edge_mm_export.families.text import decoder_spec, read_config
from edge_mm_export.families.towers import FeatureTower, Idefics3Tower
from edge_mm_export.weights import RenamedWeights, StateWeights, Weights, open_weights
from edge_mm_runtime.bundle import DecoderGeometry

CONTEXT = 2048
"""Tokens of a cache, if no other number is asked for and a picture leaves room in them."""
_ROOM = 1024  # tokens beside a picture, at least
_LEAST_ROOM = 64  # where another number is asked for

_ANY_SIZE = 448
"""Pixels, where a tower takes every size: a multiple of all of their patches."""


class _Family(NamedTuple):
    """Where a family keeps its parts, and what its own class is given."""

    tower: Callable[[Any, int, int], nn.Module]
    """(the model without its head, width, height) -> tower"""
    language: str = "language_model"
    bidirectional: Literal["picture", "prompt"] | None = None
    given: Given = lambda model, pixels: {"pixel_values": pixels}
    types: Types = lambda is_image, is_prompt: {}


def _features(model: Any, width: int, height: int) -> nn.Module:
    return FeatureTower(model)


def _idefics3(model: Any, width: int, height: int) -> nn.Module:
    return Idefics3Tower(model)


def _qwen(model: Any, width: int, height: int) -> nn.Module:
    return QwenTower(model.visual, width, height)


def _five_dimensions(model: Any, pixels: Tensor) -> dict[str, Any]:
    return {"pixel_values": pixels[:, None]}


def _picture_types(name: str) -> Types:
    return lambda is_image, is_prompt: {name: is_image.int()}


_IDEFICS3 = _Family(_idefics3, "text_model", given=_five_dimensions)
_QWEN = _Family(_qwen, given=patches, types=_picture_types("mm_token_type_ids"))

FAMILIES: dict[str, _Family] = {
    "llava": _Family(_features),
    "internvl": _Family(_features),
    "idefics3": _IDEFICS3,
    "smolvlm": _IDEFICS3,
    "gemma3": _Family(_features, bidirectional="picture", types=_picture_types("token_type_ids")),
    "paligemma": _Family(
        _features,
        bidirectional="prompt",
        types=lambda is_image, is_prompt: {"token_type_ids": (~is_prompt).int()},
    ),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
}
"""By transformers' `model_type`."""

_NOT_TRACED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")  # they need positions of several axes
_UNKNOWN = _Family(_features)
"""Any other family: it may keep its parts where most of them do."""


class ImportedVLM:
    """A model to be exported: a decoder to be drawn or traced, and a tower to be traced.

    It is read when it is needed first, in the checkpoint's types, and again after `release`; its
    tower in fp32 only where pictures are looked at.

    notes  what is unusual about it, in sentences
    """

    def __init__(
        self, folder: Path, config: Any, size: tuple[int, int], context: int | None = None
    ) -> None:
        self.folder, self.config = folder, config
        self.family: str = config.model_type
        self.width, self.height = size
        self.any_size = getattr(config.vision_config, "image_size", None) is None
        self.notes: list[str] = []
        self._parts = FAMILIES.get(self.family, _UNKNOWN)
        self._context = context
        if self.family not in FAMILIES:
            self.notes.append(
                f"family {self.family!r} is not one that the importer was tested with: its parts "
                "are taken as most families have them, and compared with transformers' own class"
            )
        if self._parts.bidirectional == "prompt":  # PaliGemma's config says it of every text config
            config.text_config.use_bidirectional_attention = False
        most = config.text_config.max_position_embeddings
        if context is not None and context > most:
            raise UnsupportedError(f"context {context} is beyond the model's {most} positions")
        self.is_drawn = self._can_be_drawn()
        open_weights(folder)  # refuses pickles and damaged files
        self._model: Any = None
        self._tower: nn.Module | None = None
        self._rows = 0
        self._grid: tuple[int, int] | None = None
        self._tied = False
        self._reference: Reference | None = None

    @property
    def image_token(self) -> int:
        """The id that stands for a row of a picture in what transformers is given."""
        index: int = self.config.image_token_id
        return index

    @property
    def rows(self) -> int:
        """How many rows a picture has."""
        if not self._rows:
            self._read_tower()
        return self._rows

    @property
    def spec(self) -> DecoderSpec:
        """What the graph builder draws the decoder from."""
        self._read()
        further = len(getattr(self.config.vision_config, "deepstack_visual_indexes", ()))
        return msgspec.structs.replace(
            decoder_spec(self.config.text_config, context=self._capacity()),
            tied_embeddings=self._tied,
            bidirectional=self._parts.bidirectional,
            deepstack=further,
        )

    @property
    def geometry(self) -> DecoderGeometry:
        """What a bundle says of the decoder."""
        if not self.is_drawn:
            return traced_geometry(self.config.text_config, self._capacity())
        spec = self.spec
        return DecoderGeometry(
            layers=spec.layers,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            context=spec.context,
            vocab_size=spec.vocab_size,
            hidden_size=spec.hidden_size,
            rope_grid=self.grid if spec.rope_axes else None,
            image_size=spec.image_size if spec.image_size != spec.hidden_size else None,
            prefix_reuse=spec.bidirectional != "prompt",
        )

    @property
    def weights(self) -> Weights:
        """The decoder's weights by the builder's names, float32 one at a time."""
        prefix = f"model.{self._parts.language}."
        state = StateWeights(self._read().state_dict())
        return RenamedWeights(state, lambda name: _moved(name, prefix))

    @property
    def vision(self) -> nn.Module:
        """pixel_values [1, 3, height, width] -> (image_embeds [1, T, D],), fp32."""
        return self._read_tower()

    @property
    def language(self) -> Any:
        """The language model without its head, in the checkpoint's types."""
        return self._language(self._read())

    @property
    def head(self) -> nn.Module:
        """The linear that makes logits."""
        found: nn.Module = self._read().get_output_embeddings()
        return found

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of a picture's tokens, for `rope_positions` where the spec has axes."""
        if not self._rows:
            self._read_tower()
        return self._grid

    @property
    def reference(self) -> Reference:
        """transformers' own class, to be asked in fp32."""
        if self._reference is None:
            self._read_tower()
            model = self._read()
            language = self._language(model)
            computes_in_fp32(language)
            computes_in_fp32(model.get_output_embeddings())
            self._reference = Reference(
                model,
                image_token=self.image_token,
                vocab_size=self.config.text_config.vocab_size,
                layers=list(getattr(language, "layers", ())),
                given=self._parts.given,
                types=self._parts.types,
            )
        return self._reference

    def traced_decoder(self) -> ir.Model:
        """The decoder of the target `cpu`, fp32, by torch.onnx.export."""
        model = self._read()
        return trace_vlm_decoder(model.float(), self._language(model), self.geometry)

    def release(self) -> None:
        """Give back the memory of what can be read again."""
        self._model = self._tower = self._reference = None
        give_back()

    def _can_be_drawn(self) -> bool:
        """Whether the graph builder knows the decoder; UnsupportedError if tracing cannot do it."""
        try:
            decoder_spec(self.config.text_config)
        except UnsupportedError as error:
            if self._parts.bidirectional or self.family in _NOT_TRACED:
                raise
            try:
                check_traceable(self.config.text_config)
            except UnsupportedError as reason:
                raise UnsupportedError(f"{error}; nor can it be traced: {reason}") from None
            self.notes.append(
                f"{error}: traced by torch.onnx.export instead, which is slower and in fp32"
            )
            return False
        return True

    def _capacity(self) -> int:
        """Tokens of the cache."""
        most: int = self.config.text_config.max_position_embeddings
        rows = self.rows
        return self._context or min(most, max(CONTEXT, rows + _ROOM))

    def _check_room(self) -> None:
        if self._context is not None and self._context < self._rows + _LEAST_ROOM:
            raise ExportError(
                f"context {self._context} leaves no room for words beside a picture of "
                f"{self._rows} tokens: give at least {self._rows + _LEAST_ROOM}"
            )

    def _language(self, model: Any) -> Any:
        return getattr(model.model, self._parts.language)

    def _read(self) -> Any:
        """The model; what is not its language model in fp32 once `_read_tower` was called."""
        if self._model is None:
            self._model = model = load_model(self.folder)
            head, table = model.get_output_embeddings(), model.get_input_embeddings()
            self._tied = head.weight is table.weight
        return self._model

    @torch.no_grad()
    def _read_tower(self) -> nn.Module:
        """The tower, in fp32; UnsupportedError where a family that is not known has none there."""
        if self._tower is not None:
            return self._tower
        model = self._read()
        try:
            language = self._language(model)
            for part in model.model.children():
                if part is not language:
                    copied_in_fp32(part)
            body = without_part(model.model, self._parts.language)
            tower = self._parts.tower(body, self.width, self.height).eval()
            if not self._rows:
                pixels = torch.zeros(1, 3, self.height, self.width)
                self._rows = tower(pixels)[0].shape[1]
                self._check_room()
        except (AttributeError, TypeError, ValueError) as error:
            if self.family in FAMILIES:
                raise
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedError(
                f"{self.folder}: family {self.family!r} is not one that the importer knows "
                f"({', '.join(FAMILIES)}), and its parts are not where most families have "
                f"them: {reason}"
            ) from None
        self._grid = tower.grid if isinstance(tower, QwenTower) else None
        self._tower = tower
        return tower


def load_vlm(
    folder: Path, *, width: int | None = None, height: int | None = None, context: int | None = None
) -> ImportedVLM:
    """Open the folder of a vision-language model.

    `width` and `height` in pixels are those of the graph: the config's, and 448 or a choice of
    your own for families that take every size. `context` is the capacity of the cache. Raises
    `UnsupportedError` for a family, size or setting that is not known, `ExportError` for a damaged
    folder; all but what only the weights tell before they are read.
    """
    config = read_config(folder)
    known = all(hasattr(config, name) for name in ("text_config", "vision_config"))
    check_answers_pictures(folder, config.model_type, known)
    return ImportedVLM(folder, config, _size(config, width, height), context)


def _size(config: Any, width: int | None, height: int | None) -> tuple[int, int]:
    """(width, height) in pixels, as asked for if the tower is not made for one size."""
    fixed = getattr(config.vision_config, "image_size", None)
    if fixed is None and config.model_type not in FAMILIES and width is None:
        raise UnsupportedError(
            f"{config.model_type}: its config does not say what size of picture it takes: give "
            "one with --image-size"
        )
    if fixed is None:
        return check_size(config, width or _ANY_SIZE, height or _ANY_SIZE)
    rows, columns = (fixed, fixed) if isinstance(fixed, int) else fixed
    asked = (width or columns, height or rows)
    if asked != (columns, rows):
        raise UnsupportedError(
            f"{config.model_type}: the tower is made for {columns} x {rows} pixels, not for "
            f"{asked[0]} x {asked[1]}"
        )
    return asked


def _moved(name: str, prefix: str) -> str:
    """The builder's `model.layers.0...` as a vision-language model names it."""
    return prefix + name.removeprefix("model.") if name.startswith("model.") else name
