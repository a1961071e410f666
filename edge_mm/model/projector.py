"""Projectors: vision features [B,N,Dv] -> embeddings of the language model [B,T,Dl]."""

from __future__ import annotations

from torch import Tensor, nn


class MLPProjector(nn.Module):
    """Two linear layers with a GELU between (LLaVA-1.5, arXiv 2310.03744). Keeps N tokens."""

    def __init__(self, vision_size: int, language_size: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(vision_size, language_size),
            nn.GELU(),
            nn.Linear(language_size, language_size),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
