"""Vision towers of transformers models as modules that `trace_vision` can trace.

Each takes `pixel_values` f32 [1, 3, H, W] of one size, normalised as the model's processor does,
and gives `image_embeds` [1, T, D] in a tuple: encoder and connector, as the decoder reads them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class FeatureTower(nn.Module):
    """A model whose own `get_image_features` is the whole way (LLaVA, InternVL, Gemma 3)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """pixel_values [1, 3, H, W] -> (image_embeds [1, T, D],)"""
        features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        embeds: Tensor = features[0]
        return (embeds.reshape(1, -1, embeds.shape[-1]),)


class Idefics3Tower(nn.Module):
    """Idefics3 and SmolVLM: one tile, no padding, then the pixel shuffle connector."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model, self.connector = model.vision_model, model.connector

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """pixel_values [1, 3, H, W] -> (image_embeds [1, T, D],)"""
        hidden = self.vision_model(pixel_values=pixel_values).last_hidden_state
        embeds: Tensor = self.connector(hidden)
        return (embeds,)
