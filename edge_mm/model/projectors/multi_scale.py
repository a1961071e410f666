"""Features of several encoder layers side by side, then an MLP.

Early layers keep what late ones have turned into meaning. The channels are concatenated as in the
Dense Connector (arXiv 2405.13800); each layer has a norm of its own, for their sizes differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edge_mm.model.projectors.mlp import mlp


class MultiScaleProjector(nn.Module):
    """[B,N,scales*Dv] -> [B,N,Dl]; keeps the tokens of a grid x grid square where they are."""

    def __init__(self, vision_size: int, language_size: int, layers: int, grid: int, scales: int):
        super().__init__()
        self.grid: int | None = grid
        self.norms = nn.ModuleList(nn.LayerNorm(vision_size) for _ in range(scales))
        self.layers = mlp(scales * vision_size, language_size, layers)

    def forward(self, features: Tensor) -> Tensor:
        by_scale = features.chunk(len(self.norms), -1)
        normed = [norm(x) for norm, x in zip(self.norms, by_scale, strict=True)]
        return self.layers(torch.cat(normed, -1))
