"""Fusion by gated cross attention (Flamingo, arXiv 2204.14198): the text looks at the image tokens.

A block is cross attention and a feed-forward network, each behind a tanh gate that starts at zero,
so that the language model starts unchanged. Blocks run before some of its layers (cross_attention)
or after its last norm (late); the language model itself stays a plain Llama either way.

Keys and values depend on the picture alone. They are computed once for all blocks, as `memory`, and
in an export by the vision graph, so that a decoding step does not compute them again. One picture
a row: Flamingo's mask, by which a word looks at the last of several pictures only, has no use here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from edge_mm.model.config import FusionConfig


class GatedBlock(nn.Module):
    """Text states [B,S,D], memory [B,T,2D] (keys, then values) -> text states [B,S,D]."""

    def __init__(self, size: int, heads: int, inner: int, norm_eps: float):
        super().__init__()
        self.heads = heads
        self.attention_norm = LlamaRMSNorm(size, norm_eps)
        self.query = nn.Linear(size, size, bias=False)
        self.output = nn.Linear(size, size, bias=False)
        # A gate has no dimension, so that it leaves bf16 states bf16.
        self.attention_gate = nn.Parameter(torch.zeros(()))
        self.feed_forward_norm = LlamaRMSNorm(size, norm_eps)
        self.up = nn.Linear(size, inner, bias=False)
        self.down = nn.Linear(inner, size, bias=False)
        self.feed_forward_gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor, memory: Tensor) -> Tensor:
        query = self.query(self.attention_norm(hidden))
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (query, *memory.chunk(2, -1))
        )
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        hidden = hidden + self.attention_gate.tanh() * self.output(seen)
        inner = F.gelu(self.up(self.feed_forward_norm(hidden)))
        out: Tensor = hidden + self.feed_forward_gate.tanh() * self.down(inner)
        return out


class FusedLayer(LlamaDecoderLayer):  # type: ignore[no-untyped-call]
    """A decoder layer with a block before it; without `image_memory` just the layer."""

    def __init__(self, config: LlamaConfig, index: int, fusion: Fusion):
        super().__init__(config, index)
        self._fusion = [fusion]  # in a list: its weights are not the language model's

    def forward(
        self, hidden_states: Tensor, *args: Any, image_memory: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        hidden_states = self._fusion[0](hidden_states, image_memory, self.self_attn.layer_idx)
        return super().forward(hidden_states, *args, **kwargs)


class Fusion(nn.Module):
    """All blocks of a model and the projection of image tokens to what they look at."""

    def __init__(self, config: FusionConfig, language: LlamaConfig):
        super().__init__()
        size = language.hidden_size
        self.places = config.places(language.num_hidden_layers)
        self.memory = nn.Linear(size, 2 * size * len(self.places), bias=False)
        self.blocks = nn.ModuleList(
            GatedBlock(size, config.heads, language.intermediate_size, language.rms_norm_eps)
            for _ in self.places
        )

    def insert(self, decoder: LlamaModel) -> None:
        """Let the decoder's layers that have a block run it first; its weights stay."""
        for place in self.places:
            if place < len(decoder.layers):
                layer = FusedLayer(decoder.config, place, self)
                layer.load_state_dict(decoder.layers[place].state_dict())
                decoder.layers[place] = layer

    def forward(self, hidden: Tensor, image_memory: Tensor | None, place: int) -> Tensor:
        """The blocks of a place: hidden [B,S,D], image_memory [B,T,W] -> [B,S,D].

        None is no picture: the text is read by the language model alone.
        """
        if image_memory is None:
            return hidden
        parts = image_memory.chunk(len(self.places), -1)
        for own, block, part in zip(self.places, self.blocks, parts, strict=True):
            if own == place:
                hidden = block(hidden, part)
        return hidden
