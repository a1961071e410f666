"""Projectors: vision features [B,N,Dv] -> embeddings of the language model [B,T,Dl].

One file each, all with one interface: `forward(features)`, and `grid`, the side of the square in
which the T tokens lie (row by row, as the picture), or None where a token has no place of its own.
"""

from __future__ import annotations

from torch import nn

from edge_mm.model.config import ModelConfig
from edge_mm.model.projectors.linear import LinearProjector
from edge_mm.model.projectors.mlp import MLPProjector
from edge_mm.model.projectors.multi_scale import MultiScaleProjector
from edge_mm.model.projectors.perceiver import PerceiverProjector
from edge_mm.model.projectors.pixel_shuffle import PixelShuffleProjector
from edge_mm.model.projectors.qformer import QFormerProjector


def build_projector(config: ModelConfig) -> nn.Module:
    """The projector that `config.projector` names, with random weights."""
    asked = config.projector
    sizes = (config.vision.hidden_size, config.language.hidden_size)
    grid = config.vision.token_grid
    if asked.kind == "linear":
        return LinearProjector(*sizes, grid)
    if asked.kind == "mlp":
        return MLPProjector(*sizes, asked.layers, grid)
    if asked.kind == "pixel_shuffle":
        return PixelShuffleProjector(*sizes, asked.layers, grid, asked.factor)
    if asked.kind == "multi_scale":
        return MultiScaleProjector(*sizes, asked.layers, grid, len(asked.feature_layers))
    resampler = {"qformer": QFormerProjector, "perceiver": PerceiverProjector}[asked.kind]
    return resampler(*sizes, asked.layers, asked.queries, asked.heads)
