"""What an unknown encoder's features are like, folded into the projector's first layer.

Encoders are not interchangeable: of one a channel has mean 0 and deviation 1, of another some
channels are a hundred times as large as the rest. What enters a projector is measured over a few
pictures, and its first layer is changed as if every channel were normalised before it. Nothing new
is stored, and nothing is computed at run time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.projectors.mlp import MLPProjector
from edge_mm.model.projectors.multi_scale import MultiScaleProjector
from edge_mm.model.towers import TransformersTower

Reading = nn.LayerNorm | nn.Linear
LEAST = 0.01  # of the mean deviation: a channel that hardly moves is not blown up to noise


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, [D], of what a layer is multiplied with."""

    mean: Tensor
    std: Tensor


def fit_input_norms(model: EdgeMM, batches: Iterable[Tensor]) -> None:
    """Measure over batches of pixel_values [B,3,S,S], and fold; the model stays in its mode."""
    for layer, statistics in measure_features(model, batches).items():
        fold(layer, statistics)


@torch.no_grad()
def measure_features(model: EdgeMM, batches: Iterable[Tensor]) -> dict[Reading, Statistics]:
    """Statistics of what enters each layer that reads features first.

    At a linear layer that is its input; at a LayerNorm, which evens out each token by itself, it is
    the input so evened out, before its weight and bias.
    """
    sums = {layer: _Sums() for layer in reading_layers(model)}

    def seen(layer: Reading, inputs: tuple[Tensor, ...]) -> None:
        sums[layer].add(_entering(layer, inputs[0]))

    hooks = [layer.register_forward_pre_hook(seen) for layer in sums]
    learning = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for pixel_values in batches:
            model.projector(model.vision(pixel_values)[2])
    finally:
        for hook in hooks:
            hook.remove()
        for module in learning:
            module.training = True
    return {layer: total.statistics() for layer, total in sums.items()}


def reading_layers(model: EdgeMM) -> list[Reading]:
    """The layers that features of the vision tower enter, LayerNorm or Linear."""
    projector = model.projector
    if isinstance(projector, MLPProjector):
        found: list[Any] = [projector.layers[0]]
    elif isinstance(projector, MultiScaleProjector):
        found = list(projector.norms)
    else:
        found = [projector.norm]
    if isinstance(model.vision, TransformersTower):
        found.append(model.vision.norm)
    return found


@torch.no_grad()
def fold(layer: Reading, statistics: Statistics) -> None:
    """Change a LayerNorm or Linear as if (x - mean) / std took the place of x at its weight."""
    layer.weight.div_(statistics.std)  # of a Linear every row, [out,D] / [D]
    if isinstance(layer, nn.LayerNorm):
        layer.bias.sub_(layer.weight * statistics.mean)
    else:
        layer.bias.sub_(layer.weight @ statistics.mean)


def _entering(layer: Reading, x: Tensor) -> Tensor:
    if isinstance(layer, nn.LayerNorm):
        x = F.layer_norm(x.float(), layer.normalized_shape, eps=layer.eps)
    return x.flatten(0, -2)


class _Sums:
    """Running sums over rows [N,D], in double precision."""

    def __init__(self) -> None:
        self.rows, self.sum, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        x = x.double()
        self.rows += len(x)
        self.sum = self.sum.to(x.device) + x.sum(0)
        self.squares = self.squares.to(x.device) + x.square().sum(0)

    def statistics(self) -> Statistics:
        mean = self.sum / self.rows
        std = (self.squares / self.rows - mean.square()).clamp(min=0).sqrt()
        return Statistics(mean.float(), std.clamp(min=LEAST * std.mean().item()).float())
