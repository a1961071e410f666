"""Text decoders of families that the graph builder does not know: torch.onnx.export of the class.

The graph has the inputs of the target `tensorrt-10.3` without a picture: `input_ids` i64 [1, S],
`position_ids` i64 [1, S] and `past_key_values.{i}.key|value` [1, kv_heads, context, head_dim];
outputs `logits` f32 [1, V] and `present.{i}.key|value`. It computes in fp32 and is slower than a
drawn graph: the cache comes back whole, and nothing is fused but what the exporter fuses.
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
from edge_mm_export.weights import open_weights

_OPSET = 23


def trace_text_decoder(folder: Path, *, context: int) -> ir.Model:
    """The traced decoder of a transformers folder, with a cache of `context` tokens.

    Raises `UnsupportedError` for models with windows or several kinds of attention, for which one
    mask and one kind of cache would be wrong.
    """
    config = read_config(folder)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(config, "sliding_window", None) is not None:
        raise UnsupportedError(f"{config.model_type}: windows of attention cannot be traced")
    open_weights(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation="sdpa",
    )
    return trace_decoder(model.eval(), context)


def trace_decoder(model: Any, context: int) -> ir.Model:
    """Trace a causal language model of transformers; see the module for what goes in and out."""
    config = model.config
    layers = config.num_hidden_layers
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    past = [torch.zeros(1, kv_heads, context, head_dim) for _ in range(2 * layers)]
    names = [f"{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    count = torch.export.Dim("sequence", min=1, max=context)
    # Two tensors: one that is passed twice would be traced as one input.
    example = torch.zeros(1, 3, dtype=torch.int64), torch.arange(3)[None]
    program = torch.onnx.export(
        _Stepped(model, context).eval(),
        (*example, past),
        dynamo=True,
        opset_version=_OPSET,
        input_names=[
            "input_ids",
            "position_ids",
            *(f"past_key_values.{name}" for name in names),
        ],
        output_names=["logits", *(f"present.{name}" for name in names)],
        dynamic_shapes=({1: count}, {1: count}, [None] * len(past)),
        verbose=False,
    )
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
