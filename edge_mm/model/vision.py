"""The vision tower: pixels -> coarse tokens for the language model, fine features for pointing.

A pretrained EfficientNet-Lite0 gives features at strides 4 to 32; a small dense neck fuses them at
stride 8; a SigLIP encoder lets the coarse tokens see the whole picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from edge_mm.model.config import VisionConfig
from edge_mm.model.efficientnet_lite import FEATURE_CHANNELS, EfficientNetLite0

PLACE_SCALE = 2.0  # beside features of unit variance: enough to be read through the projector


def sine_cosine(grid: int, width: int) -> Tensor:
    """Sines and cosines of column and row, [1,grid*grid,width]; the frequencies go down to half a
    turn over the picture, so that left and right differ at the lowest one."""
    quarter = -(-width // 4)
    turns = grid / 2 * (1 / grid) ** (torch.arange(quarter) / max(1, quarter - 1))
    angles = 2 * torch.pi * (torch.arange(grid) + 0.5)[:, None] / grid * turns
    waves = torch.cat([angles.sin(), angles.cos()], -1)
    columns, rows = waves.repeat(grid, 1), waves.repeat_interleave(grid, 0)
    return torch.cat([columns, rows], -1)[None, :, :width]


class ResidualConv(nn.Module):
    """Two 3x3 convolutions around a shortcut, [B,C,H,W] -> [B,C,H,W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Neck(nn.Module):
    """Features at strides 4, 8, 16, 32 -> one map at stride 8, [B,C,S/8,S/8]."""

    def __init__(self, channels: int):
        super().__init__()
        fine, *coarser = FEATURE_CHANNELS
        self.fine = nn.Conv2d(fine * 4, channels, 1)
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in coarser)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(ResidualConv(channels), ResidualConv(channels))

    def forward(self, features: list[Tensor]) -> Tensor:
        fine, *coarser = features
        x = self.fine(F.pixel_unshuffle(fine, 2))
        for lateral, feature in zip(self.lateral, coarser, strict=True):
            x = x + F.interpolate(lateral(feature), size=x.shape[-2:], mode="bilinear")
        return self.blocks(F.relu(self.norm(x)))


class VisionTower(nn.Module):
    """pixel_values [B,3,S,S] -> (tokens [B,N,D], fine map [B,C,S/8,S/8], features for a projector).

    The features are the tokens, or with `feature_layers` the encoder's states after these layers
    (0: before the first) side by side, [B,N,len(feature_layers)*D], not normed; and where in the
    picture each token lies (`place`), which the encoder by itself forgets within a few layers.
    """

    def __init__(self, config: VisionConfig, feature_layers: tuple[int, ...] = ()):
        super().__init__()
        self.feature_layers = feature_layers
        self.backbone = EfficientNetLite0()
        self.neck = Neck(config.neck_channels)
        stride = config.cells // config.token_grid
        self.patchify = nn.Conv2d(config.neck_channels, config.hidden_size, stride, stride)
        self.position = nn.Parameter(torch.randn(1, config.tokens, config.hidden_size) * 0.02)
        self.encoder = SiglipEncoder(
            SiglipVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                attn_implementation="sdpa",
            )
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        width = max(1, len(feature_layers)) * config.hidden_size
        self.place = nn.Parameter(PLACE_SCALE * sine_cosine(config.token_grid, width))

    def features(self, pixel_values: Tensor) -> list[Tensor]:
        """The pretrained features; blocks at the front that do not learn keep no graph."""
        learning = [next(block.parameters()).requires_grad for block in self.backbone.blocks]
        frozen = learning.index(True) if True in learning else len(learning)
        return self.backbone(pixel_values, frozen)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.neck(self.features(pixel_values))
        states = [self.patchify(fine).flatten(2).transpose(1, 2) + self.position]
        for layer in self.encoder.layers:
            states.append(layer(states[-1], None))
        tokens = self.norm(states[-1])
        if not self.feature_layers:
            return tokens, fine, tokens + self.place
        return tokens, fine, torch.cat([states[i] for i in self.feature_layers], -1) + self.place
