"""transformers' own class behind the runtime's `Runner` contract: what an import is measured by.

It is given pixels and ids as its own processor would give them, and puts the picture's rows, the
positions and the masks itself, so that whatever the importer does otherwise shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from edge_mm_export.hessians import Given as LayerGiven
from edge_mm_export.hessians import State
from edge_mm_export.watch import watching
from edge_mm_runtime.runner import Array, Arrays, TensorSpec

FloatArray = npt.NDArray[np.float32]
Given = Callable[[Any, Tensor], dict[str, Any]]
"""(the model, pixel_values [1, 3, H, W]) -> the pictures as its class takes them."""
Types = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""(which ids [1, S] are of the picture, which of the prompt) -> how the class tells them apart."""

_MOST_PICTURES = 8


class Reference:
    """A model of transformers that is asked as the graphs are.

    image_token, vocab_size  ids >= vocab_size are written as the image token
    layers                   of its language model
    """

    def __init__(
        self,
        model: Any,
        *,
        image_token: int,
        vocab_size: int,
        layers: Sequence[nn.Module],
        given: Given,
        types: Types,
    ) -> None:
        self.model = model
        self._image_token, self._vocab_size = image_token, vocab_size
        self.layers, self._given, self._types = layers, given, types
        self._pictures: dict[bytes, FloatArray] = {}  # pixels by the rows that were made of them

    @torch.no_grad()
    def look(self, pixel_values: FloatArray) -> FloatArray:
        """pixel_values [1, 3, H, W] -> image_embeds [1, T, D], further rows beside the first."""
        inputs = self._given(self.model, torch.from_numpy(pixel_values))
        found = self.model.get_image_features(**inputs, return_dict=True)
        parts = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
        rows = [torch.cat(list(part)).flatten(0, -2).float() for part in parts]
        embeds = torch.cat(rows, dim=-1)[None].numpy()
        if len(self._pictures) >= _MOST_PICTURES:
            self._pictures.pop(next(iter(self._pictures)))
        self._pictures[embeds.tobytes()] = pixel_values
        return embeds

    def pixels_of(self, image_embeds: FloatArray) -> FloatArray:
        """The pixels that `look` has made these rows [T, D] of."""
        return self._pictures[image_embeds.tobytes()]

    @torch.no_grad()
    def read(
        self,
        ids: list[int],
        pixel_values: FloatArray | None,
        cache: DynamicCache | None = None,
        prompt: int | None = None,
    ) -> FloatArray:
        """Logits [1, V] after ids: a whole prompt with its picture, or words that a cache lacks.

        prompt: how many of the ids are the prompt, where an answer follows.
        """
        tokens = torch.tensor([ids])
        is_image = tokens >= self._vocab_size
        tokens = tokens.where(~is_image, self._image_token)
        more: dict[str, Any] = {}
        if pixel_values is not None:
            if bool(is_image.any()):
                more = self._given(self.model, torch.from_numpy(pixel_values))
            more |= self._types(is_image, torch.arange(len(ids))[None] < (prompt or len(ids)))
        logits: Tensor = self.model(
            input_ids=tokens, past_key_values=cache, use_cache=cache is not None, **more
        ).logits[:, -1]
        return logits.float().numpy()

    def residuals(self, ids: list[int], pixel_values: FloatArray) -> Mapping[str, FloatArray]:
        """By `residual_name`, the residual stream after each layer, then logits, of a prompt."""
        with watching(self.layers) as seen:
            logits = self.read(ids, pixel_values)
        return {**seen, "logits": logits}

    @torch.no_grad()
    def first_state(self, ids: list[int], prompt: int, pixel_values: FloatArray) -> State:
        """A prompt with its answer as the first layer reads it, and what later ones are given."""
        inputs: list[tuple[Tensor, dict[str, Any]]] = []
        outputs: list[Tensor] = []

        def before(_module: nn.Module, given: tuple[Tensor], options: dict[str, Any]) -> None:
            inputs.append((given[0], options))

        def behind(_module: nn.Module, _inputs: Any, output: Any) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)

        handles = [
            layer.register_forward_pre_hook(before, with_kwargs=True) for layer in self.layers
        ]
        handles += [layer.register_forward_hook(behind) for layer in self.layers]
        try:
            self.read(ids, pixel_values, prompt=prompt)
        finally:
            for handle in handles:
                handle.remove()
        later = tuple(
            LayerGiven(options, None if torch.equal(hidden, made) else hidden - made)
            for (hidden, options), made in zip(inputs[1:], outputs, strict=False)
        )
        return State(*inputs[0], prompt - 1, later)

    def new_cache(self) -> DynamicCache:
        """An empty one."""
        return DynamicCache(config=self.model.config.get_text_config())


class ReferenceVision:
    """A Runner of the model's own `get_image_features`."""

    def __init__(self, reference: Reference) -> None:
        self.inputs = {"pixel_values": TensorSpec(np.float32, (1, 3, None, None))}
        self.outputs = {"image_embeds": TensorSpec(np.float32, (1, None, None))}
        self._reference: Reference | None = reference

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """pixel_values [1, 3, H, W] -> image_embeds [1, T, D]"""
        assert self._reference is not None, "closed"
        return {"image_embeds": self._reference.look(inputs["pixel_values"])}

    def close(self) -> None:
        """Let go of the model."""
        self._reference = None


class ReferenceDecoder:
    """A Runner of the whole model, with the inputs of the target `cpu`.

    It looks at the pixels that the rows it is given were made of by `ReferenceVision`.
    """

    def __init__(self, reference: Reference, by_axes: bool = False) -> None:
        self.inputs = {
            "input_ids": TensorSpec(np.int64, (1, None)),
            "image_embeds": TensorSpec(np.float32, (None, None)),
            "seqlens_k": TensorSpec(np.int32, (1,)),
            "total_sequence_length": TensorSpec(np.int32, (1,)),
        }
        if by_axes:
            self.inputs["rope_positions"] = TensorSpec(np.int64, (3, None))
        self.outputs = {"logits": TensorSpec(np.float32, (1, None))}
        self._reference: Reference | None = reference
        self._ids: list[int] = []
        self._cache: DynamicCache | None = None

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Append input_ids [1, S] at the place that total_sequence_length says."""
        assert self._reference is not None, "closed"
        new: list[int] = inputs["input_ids"][0].tolist()
        kept = int(inputs["total_sequence_length"][0]) - len(new)
        goes_on = self._cache is not None and 0 < kept == len(self._ids)
        self._ids = self._ids[:kept] + new
        if goes_on:
            return {"logits": self._reference.read(new, None, self._cache)}
        self._cache = self._reference.new_cache()
        pixel_values = self._reference.pixels_of(inputs["image_embeds"])
        return {"logits": self._reference.read(self._ids, pixel_values, self._cache)}

    def close(self) -> None:
        """Let go of the model."""
        self._reference = self._cache = None


def computes_in_fp32(module: nn.Module) -> None:
    """Let every part of a module widen its weights while it runs, and only then.

    A checkpoint of 16 bits so needs no second copy in fp32. The weights themselves are left as
    they are; a part must not read those of another one.
    """
    for part in module.modules():
        narrow = {
            name: value
            for name, value in part.named_parameters(recurse=False)
            if value.dtype in (torch.float16, torch.bfloat16)
        }
        if narrow:
            part.register_forward_pre_hook(lambda at, _: _widen(at))
            part.register_forward_hook(_Narrow(narrow))


def _widen(part: nn.Module) -> None:
    for name, value in list(part.named_parameters(recurse=False)):
        setattr(part, name, nn.Parameter(value.detach().float(), requires_grad=False))


class _Narrow:
    """A forward hook that puts a module's own parameters back."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = parameters

    def __call__(self, part: nn.Module, _inputs: Any, _output: Any) -> None:
        for name, value in self._parameters.items():
            setattr(part, name, value)
