"""Decoders of families that the graph builder does not know: torch.onnx.export of the class.

A text decoder's graph has the inputs of the target `tensorrt-10.3` without a picture: `input_ids`
i64 [1, S], `position_ids` i64 [1, S] and `past_key_values.{i}.key|value` [1, kv_heads, context,
head_dim]; outputs `logits` f32 [1, V] and `present.{i}.key|value`. That of a vision-language model
has all inputs of the target `cpu`. Both compute in fp32 and are slower than a drawn graph: the
cache comes back whole, and nothing is fused but what the exporter fuses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from edge_mm_export.errors import UnsupportedError
from edge_mm_export.families.text import read_config
from edge_mm_export.vision import quiet
from edge_mm_export.weights import open_weights
from edge_mm_runtime.bundle import DecoderGeometry

_OPSET = 23


def trace_text_decoder(folder: Path, *, context: int) -> ir.Model:
    """The traced decoder of a transformers folder, with a cache of `context` tokens.

    Raises `UnsupportedError` for models with windows or several kinds of attention, for which one
    mask and one kind of cache would be wrong.
    """
    config = read_config(folder)
    check_traceable(config)
    open_weights(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    return trace_decoder(model.eval(), context)


def check_traceable(config: Any) -> None:
    """Raise UnsupportedError for a text config with windows or several kinds of attention."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        raise UnsupportedError(f"{config.model_type}: windows of attention cannot be traced")
    if "mrope_section" in (getattr(config, "rope_parameters", None) or {}):
        raise UnsupportedError(f"{config.model_type}: positions of several axes cannot be traced")


def traced_geometry(config: Any, context: int) -> DecoderGeometry:
    """The sizes of a text config's decoder."""
    heads = config.num_attention_heads
    return DecoderGeometry(
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        context=context,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
    )


def trace_decoder(model: Any, context: int) -> ir.Model:
    """Trace a causal language model of transformers; see the module for what goes in and out."""
    count = torch.export.Dim("sequence", min=1, max=context)
    # Two tensors: one that is passed twice would be traced as one input.
    example = torch.zeros(1, 3, dtype=torch.int64), torch.arange(3)[None]
    return _trace(
        _Stepped(model, context),
        traced_geometry(model.config, context),
        {"input_ids": example[0], "position_ids": example[1]},
        ({1: count}, {1: count}),
    )


def trace_vlm_decoder(model: Any, language: Any, geometry: DecoderGeometry) -> ir.Model:
    """Trace the decoder of a vision-language model, `language` being its part without the head."""
    count = torch.export.Dim("sequence", min=1, max=geometry.context)
    rows = torch.export.Dim("image_rows", min=1, max=geometry.context)
    example = {
        "input_ids": torch.zeros(1, 3, dtype=torch.int64),
        "image_embeds": torch.zeros(2, geometry.hidden_size),
        "total_sequence_length": torch.tensor([3], dtype=torch.int32),
    }
    traced = _trace(
        _SteppedVLM(model, language, geometry), geometry, example, ({1: count}, {0: rows}, None)
    )
    # The target's kernel reads it; here the total says the same.
    unread = ir.val("seqlens_k", ir.DataType.INT32, ir.Shape([1]))
    traced.graph.inputs.insert(2, unread)
    return traced


def _trace(
    stepped: nn.Module,
    geometry: DecoderGeometry,
    example: dict[str, Tensor],
    shapes: tuple[Any, ...],
) -> ir.Model:
    shape = (1, geometry.kv_heads, geometry.context, geometry.head_dim)
    names = [f"{layer}.{part}" for layer in range(geometry.layers) for part in ("key", "value")]
    past = [torch.zeros(shape) for _ in names]
    try:
        with quiet():
            program = torch.onnx.export(
                stepped.eval(),
                (*example.values(), past),
                dynamo=True,
                opset_version=_OPSET,
                input_names=[*example, *(f"past_key_values.{name}" for name in names)],
                output_names=["logits", *(f"present.{name}" for name in names)],
                dynamic_shapes=(*shapes, [None] * len(past)),
                verbose=False,
            )
    except Exception as error:  # of whatever kind the model's own code raises
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UnsupportedError(f"torch.onnx.export cannot trace this decoder: {reason}") from None
    assert program is not None  # only a call with a path of its own returns None
    return program.model


class _Stepped(nn.Module):
    """A model whose cache is an argument and a result."""

    def __init__(self, model: Any, context: int) -> None:
        super().__init__()
        self.model, self.context = model, context

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        places = position_ids[0]
        layers: list[Any] = [
            _ScatteredLayer(key, value, places)
            for key, value in zip(past[::2], past[1::2], strict=True)
        ]
        seen = torch.arange(self.context) <= places[:, None]
        logits = self.model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=seen[None, None],
            past_key_values=Cache(layers=layers),
            use_cache=True,
        ).logits
        return (logits[:, -1], *(part for layer in layers for part in (layer.keys, layer.values)))


class _SteppedVLM(nn.Module):
    """The language half of a model, told where it stands by how many ids there are in all."""

    def __init__(self, model: Any, language: Any, geometry: DecoderGeometry) -> None:
        super().__init__()
        self.language, self.geometry = language, geometry
        self.table, self.head = model.get_input_embeddings(), model.get_output_embeddings()

    def forward(
        self, input_ids: Tensor, image_embeds: Tensor, total: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        vocab_size = self.geometry.vocab_size
        places = torch.arange(input_ids.shape[1]) + (total[0] - input_ids.shape[1])
        is_image = input_ids >= vocab_size
        words = self.table(input_ids.where(~is_image, 0))
        rows = image_embeds[(input_ids - vocab_size).clamp(min=0)]
        layers: list[Any] = [
            _ScatteredLayer(key, value, places)
            for key, value in zip(past[::2], past[1::2], strict=True)
        ]
        seen = torch.arange(self.geometry.context) <= places[:, None]
        hidden = self.language(
            inputs_embeds=torch.where(is_image[..., None], rows, words),
            position_ids=places[None],
            attention_mask=seen[None, None],
            past_key_values=Cache(layers=layers),
            use_cache=True,
        ).last_hidden_state
        caches = (part for layer in layers for part in (layer.keys, layer.values))
        return (self.head(hidden[:, -1]), *caches)


class _ScatteredLayer:
    """A layer's cache of fixed capacity, into which new keys and values go by their places.

    It is what a transformers `Cache` asks of its layers while positions and mask are given.
    """

    is_sliding = False
    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, places: Tensor) -> None:
        self.keys, self.values, self.places = keys, values, places

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write S new places, [1, kv_heads, S, head_dim] each; gives back the whole cache."""
        index = self.places[None, None, :, None].expand_as(key_states)
        self.keys = self.keys.scatter(2, index, key_states)
        self.values = self.values.scatter(2, index, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Models ask, and then do not use it: they are given positions."""
        return 0
