"""The torch model behind the runtime's own `Runner` contract: what every export is measured by.

The runtime's session then asks torch exactly as it asks the graphs (prompt, grammar, region head,
forced locations, cache), so an answer that differs differs because of a graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from transformers import DynamicCache

from edge_mm.model.edge_mm import VISION_OUTPUTS, EdgeMM
from edge_mm_runtime.runner import Array, Arrays, TensorSpec


class TorchVision:
    """A Runner of `model.vision_graph()`, fp32."""

    def __init__(self, model: EdgeMM) -> None:
        self.inputs = {"pixel_values": TensorSpec(np.float32, (1, 3, None, None))}
        self.outputs = {name: TensorSpec(np.float32, (1, None, None)) for name in VISION_OUTPUTS}
        self._graph = model.vision_graph().eval()

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """pixel_values [1, 3, H, W] -> the vision graph's outputs."""
        values = self._graph(torch.from_numpy(inputs["pixel_values"]))
        return {name: value.numpy() for name, value in zip(VISION_OUTPUTS, values, strict=True)}

    def close(self) -> None:
        """Nothing to give back: the model is the caller's."""


class TorchDecoder:
    """A Runner of the model's decoder and `region_query`, fp32, with transformers' cache."""

    def __init__(self, model: EdgeMM) -> None:
        self.inputs = {
            "input_ids": TensorSpec(np.int64, (1, None)),
            "image_embeds": TensorSpec(np.float32, (None, None)),
            "seqlens_k": TensorSpec(np.int32, (1,)),
            "total_sequence_length": TensorSpec(np.int32, (1,)),
        }
        self.outputs = {
            "logits": TensorSpec(np.float32, (1, None)),
            "region_query": TensorSpec(np.float32, (1, None)),
        }
        self._model = model
        self._cache = DynamicCache(config=model.lm.config)

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Append input_ids [1, S] at the place that total_sequence_length says."""
        ids = torch.from_numpy(inputs["input_ids"])
        kept = int(inputs["total_sequence_length"][0]) - ids.shape[1]
        if kept == 0:
            self._cache = DynamicCache(config=self._model.lm.config)
        elif (surplus := int(self._cache.get_seq_length()) - kept) > 0:
            self._cache.crop(-surplus)
        memory = torch.from_numpy(inputs["image_embeds"])[None]
        hidden = self._model.hidden_states(
            self._model.embed(ids, memory), image_memory=memory, past_key_values=self._cache
        )[-1][:, -1]
        return {
            "logits": self._model.logits(hidden).numpy(),
            "region_query": self._model.region_query(hidden).numpy(),
        }

    def close(self) -> None:
        """Nothing to give back: the model is the caller's."""
