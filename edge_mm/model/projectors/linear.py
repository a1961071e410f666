"""One linear layer, as in the first LLaVA (arXiv 2304.08485), behind a LayerNorm."""

from __future__ import annotations

from torch import Tensor, nn


class LinearProjector(nn.Module):
    """[B,N,Dv] -> [B,N,Dl]; keeps the tokens of a grid x grid square where they are."""

    def __init__(self, vision_size: int, language_size: int, grid: int):
        super().__init__()
        self.grid: int | None = grid
        self.norm = nn.LayerNorm(vision_size)
        self.linear = nn.Linear(vision_size, language_size)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.norm(features))
