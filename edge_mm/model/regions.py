"""The region head: every fine cell offers a key and a box; the language model points at a cell.

A hidden state becomes a query; its dot product with the keys says which cell is meant, and that
cell's own regressed box and grasp point are the answer: one decode step instead of four, and boxes
that are not limited to bins. Dense regression per cell follows FCOS (arXiv 1904.01355).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_mm.model.config import VisionConfig
from edge_mm.model.vision import ResidualConv

MAX_LOG_SIDE = 5.0  # a side of exp(5) cells is far outside of any frame


class RegionHead(nn.Module):
    """(tokens [B,T,D], fine map [B,C,G,G]) -> keys [B,P,K], boxes [B,P,6], looks [B,P,L]; P = G*G.

    A row of `boxes` is x1 y1 x2 y2 and the grasp point x y, normalised to the model's input.
    `looks` are logits for kind and colour of the cell, used in training only.
    """

    def __init__(self, config: VisionConfig, key_size: int, looks: int):
        super().__init__()
        self.token_grid, self.cells = config.token_grid, config.cells
        channels = config.neck_channels
        self.context = nn.Linear(config.hidden_size, channels)
        self.position = nn.Parameter(torch.randn(1, channels, self.cells, self.cells) * 0.02)
        self.mix = ResidualConv(channels)
        self.key = nn.Conv2d(channels, key_size, 1)
        self.box = nn.Conv2d(channels, 6, 1)
        self.looks = nn.Conv2d(channels, looks, 1)
        steps = (torch.arange(self.cells) + 0.5) / self.cells
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], -1).view(1, -1, 2), persistent=False)

    def mixed(self, tokens: Tensor, fine: Tensor) -> Tensor:
        context = self.context(tokens).transpose(1, 2).unflatten(2, (self.token_grid,) * 2)
        context = F.interpolate(context, size=(self.cells, self.cells), mode="bilinear")
        return self.mix(F.relu(fine + context + self.position.to(fine.dtype)))

    def regions(self, mixed: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed map [B,C,G,G] -> keys [B,P,K], boxes [B,P,6]."""
        keys = self.key(mixed).flatten(2).transpose(1, 2)
        raw = self.box(mixed).flatten(2).transpose(1, 2).float()
        centres: Tensor = self.centres
        sides = raw[..., :4].clamp(max=MAX_LOG_SIDE).exp() / self.cells
        point = centres + raw[..., 4:] / self.cells
        boxes = torch.cat([centres - sides[..., :2], centres + sides[..., 2:], point], -1)
        return keys, boxes

    def forward(self, tokens: Tensor, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mixed = self.mixed(tokens, fine)
        return *self.regions(mixed), self.looks(mixed).flatten(2).transpose(1, 2)
