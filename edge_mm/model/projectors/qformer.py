"""Q-Former: learned queries talk to each other and look at the picture (BLIP-2, arXiv 2301.12597).

BLIP-2 starts from BERT and looks in every second block; here the blocks are pre-norm, start from
scratch and all look.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mm.model.projectors.attention import Attention, feed_forward


class QFormerBlock(nn.Module):
    """Self attention of the queries [B,T,D], cross attention to the features [B,N,D], an MLP."""

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.self_norm = nn.LayerNorm(size)
        self.self_attention = Attention(size, heads)
        self.cross_norm = nn.LayerNorm(size)
        self.cross_attention = Attention(size, heads)
        self.feed_forward = feed_forward(size)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        own = self.self_norm(queries)
        queries = queries + self.self_attention(own, own)
        queries = queries + self.cross_attention(self.cross_norm(queries), features)
        return queries + self.feed_forward(queries)


class QFormerProjector(nn.Module):
    """[B,N,Dv] -> [B,queries,Dl], for any N; the order of the N tokens is of no account."""

    def __init__(self, vision_size: int, language_size: int, layers: int, queries: int, heads: int):
        super().__init__()
        self.grid: int | None = None
        self.norm = nn.LayerNorm(vision_size)
        self.queries = nn.Parameter(torch.randn(1, queries, vision_size) * 0.02)
        self.layers = nn.ModuleList(QFormerBlock(vision_size, heads) for _ in range(layers))
        self.output = nn.Sequential(
            nn.LayerNorm(vision_size), nn.Linear(vision_size, language_size)
        )

    def forward(self, features: Tensor) -> Tensor:
        features = self.norm(features)
        queries = self.queries.expand(len(features), -1, -1)
        for layer in self.layers:
            queries = layer(queries, features)
        return self.output(queries)
