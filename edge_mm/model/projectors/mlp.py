"""Linear layers with GELUs between, token by token; two are LLaVA-1.5 (arXiv 2310.03744)."""

from __future__ import annotations

from torch import Tensor, nn


class MLPProjector(nn.Module):
    """[B,N,Dv] -> [B,N,Dl]; keeps the tokens of a grid x grid square where they are.

    No norm at the front, as in LLaVA-1.5: the vision tower ends in one.
    """

    def __init__(self, vision_size: int, language_size: int, layers: int, grid: int):
        super().__init__()
        self.grid: int | None = grid
        self.layers = mlp(vision_size, language_size, layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


def mlp(inputs: int, outputs: int, layers: int) -> nn.Sequential:
    """`layers` linear layers, inputs -> outputs -> ... -> outputs, a GELU between two of them."""
    modules: list[nn.Module] = [nn.Linear(inputs, outputs)]
    for _ in range(layers - 1):
        modules += [nn.GELU(), nn.Linear(outputs, outputs)]
    return nn.Sequential(*modules)
