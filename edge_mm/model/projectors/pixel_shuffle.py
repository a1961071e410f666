"""Pixel shuffle: a square of neighbouring tokens becomes one wide token, then an MLP.

The token compression of InternVL-1.5 (arXiv 2404.16821): nothing is thrown away before the MLP,
and the language model reads factor**2 times fewer rows.
"""

from __future__ import annotations

from torch import Tensor, nn

from edge_mm.model.config import shuffled_grid
from edge_mm.model.projectors.mlp import mlp


class PixelShuffleProjector(nn.Module):
    """[B,G*G,Dv] -> [B,(G/factor)**2,Dl]; ValueError where the factor does not divide G."""

    def __init__(
        self, vision_size: int, language_size: int, layers: int, token_grid: int, factor: int
    ):
        super().__init__()
        self.grid = shuffled_grid(token_grid, factor)
        self.factor = factor
        wide = vision_size * factor**2
        self.norm = nn.LayerNorm(wide)
        self.layers = mlp(wide, language_size, layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(self.norm(self.shuffle(features)))

    def shuffle(self, features: Tensor) -> Tensor:
        """[B,G*G,D] -> [B,(G/f)**2,f*f*D]: the tokens of each f x f square, row by row."""
        side, factor = self.grid, self.factor
        squares = features.unflatten(1, (side, factor, side, factor)).transpose(2, 3)
        return squares.flatten(3).flatten(1, 2)
