"""Perceiver resampler: learned latents look at any number of tokens (Flamingo, arXiv 2204.14198).

Keys and values are the features and the latents themselves, so that one attention does both. The
features do not change from block to block and are normed once, at the front.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mm.model.projectors.attention import Attention, feed_forward
from edge_mm_runtime.errors import UsageError

MAX_IMAGES = 8  # Flamingo's frames of a video


class PerceiverBlock(nn.Module):
    """Latents [B,T,D] look at features [B,N,D] and at each other; an MLP."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.attention = Attention(size, heads)
        self.feed_forward = feed_forward(size)

    def forward(self, latents: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        own = self.norm(latents)
        latents = latents + self.attention(own, torch.cat([features, own], 1), mask)
        return latents + self.feed_forward(latents)


class PerceiverProjector(nn.Module):
    """[B,N,Dv] or I images [B,I,N,Dv] -> [B,queries,Dl], for any N and I up to `MAX_IMAGES`.

    `mask` [B,N] or [B,I,N], bool, is True for tokens that are there. Each image adds an embedding
    of its own to its tokens; their order inside of an image is of no account.
    """

    def __init__(self, vision_size: int, language_size: int, layers: int, queries: int, heads: int):
        super().__init__()
        self.grid: int | None = None
        self.norm = nn.LayerNorm(vision_size)
        self.time = nn.Parameter(torch.randn(MAX_IMAGES, 1, vision_size) * 0.02)
        self.latents = nn.Parameter(torch.randn(1, queries, vision_size) * 0.02)
        self.layers = nn.ModuleList(PerceiverBlock(vision_size, heads) for _ in range(layers))
        self.output = nn.Sequential(
            nn.LayerNorm(vision_size), nn.Linear(vision_size, language_size)
        )

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        if features.ndim == 3:
            features = features[:, None]
        images = features.shape[1]
        if images > MAX_IMAGES:
            raise UsageError(
                f"the perceiver was given {images} images and has places for {MAX_IMAGES}: "
                "give it fewer at a time"
            )
        features = (self.norm(features) + self.time[:images]).flatten(1, 2)
        latents = self.latents.expand(len(features), -1, -1)
        if mask is not None:
            mask = mask.flatten(1)
            mask = torch.cat([mask, mask.new_ones(latents.shape[:2])], 1)[:, None, None]
        for layer in self.layers:
            latents = layer(latents, features, mask)
        return self.output(latents)
