"""A vision tower of transformers in the place of ours: CLIP, SigLIP, SigLIP 2, DINOv2/3, timm, ...

What they have in common is `hidden_states`. One of them is read, without the class and register
tokens at its front, as a square of patches; a small dense neck makes the fine map of the region
head from it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from edge_mm.model.components import TowerConfig
from edge_mm.model.config import VisionConfig
from edge_mm.model.hub import read_config, read_weights, restored, stored
from edge_mm.model.vision import ResidualConv
from edge_mm_runtime.errors import UsageError

FINE_STRIDE = 8  # pixels of a cell of the fine map, about
MAX_SPECIAL_TOKENS = 32  # class and register tokens before the patches


class DenseNeck(nn.Module):
    """Tokens [B,N,D] of a square -> a fine map [B,C,G,G], G a multiple of the square's side."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.token_grid, self.cells = config.token_grid, config.cells
        self.lateral = nn.Conv2d(config.hidden_size, config.neck_channels, 1)
        self.norm = nn.BatchNorm2d(config.neck_channels)
        self.blocks = nn.Sequential(
            ResidualConv(config.neck_channels), ResidualConv(config.neck_channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        square = tokens.transpose(1, 2).unflatten(2, (self.token_grid,) * 2)
        x = F.interpolate(self.lateral(square), size=(self.cells,) * 2, mode="bilinear")
        return self.blocks(F.relu(self.norm(x)))


class TransformersTower(nn.Module):
    """The contract of `vision.VisionTower` around a vision model of transformers.

    pixel_values [B,3,S,S] -> (tokens [B,N,D], fine map [B,C,G,G], features for a projector). The
    features are the raw states of `tower.feature_layer`, or with `feature_layers` those of these
    layers side by side, [B,N,len(feature_layers)*D]; the tokens are the former, normed.
    """

    def __init__(
        self, tower: TowerConfig, vision: VisionConfig, feature_layers: tuple[int, ...] = ()
    ):
        super().__init__()
        self.feature_layer, self.feature_layers = tower.feature_layer, feature_layers
        self.grid = vision.token_grid
        self.encoder = random_encoder(tower)
        self.norm = nn.LayerNorm(vision.hidden_size)
        self.neck = DenseNeck(vision)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = hidden_states(self.encoder, pixel_values)
        features = patches(states[self.feature_layer], self.grid)
        tokens = self.norm(features)
        if self.feature_layers:
            features = torch.cat([patches(states[i], self.grid) for i in self.feature_layers], -1)
        return tokens, self.neck(tokens), features

    def bottom_and_top(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The encoder's parameters; the last third of its layers is the top."""
        blocks = list(stack(self.encoder))
        top = [p for block in blocks[-max(1, len(blocks) // 3) :] for p in block.parameters()]
        ids = {id(parameter) for parameter in top}
        return [p for p in self.encoder.parameters() if id(p) not in ids], top


def random_encoder(tower: TowerConfig) -> PreTrainedModel:
    """The encoder by its configuration, with random weights."""
    config = _vision_part(restored(tower.config, "tower"))
    try:
        return AutoModel.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"tower.config of type {config.model_type!r}: {error}") from error


def open_tower(
    tower: TowerConfig, asked: VisionConfig
) -> tuple[PreTrainedModel, TowerConfig, VisionConfig]:
    """The encoder with its weights, and both configurations with all that it says of itself.

    `asked` gives the channels of the neck only.
    """
    if tower.name is None:
        encoder = random_encoder(tower)
    else:
        config = _vision_part(read_config(tower.name, tower.download, "tower"))
        encoder = read_weights(AutoModel, tower.name, config, tower.download, "tower")
    size = tower.image_size or image_size(encoder)
    known = msgspec.structs.replace(tower, config=stored(encoder.config), image_size=size)
    return encoder, known, vision_config(encoder, known, asked.neck_channels)


@torch.no_grad()
def vision_config(encoder: PreTrainedModel, tower: TowerConfig, channels: int) -> VisionConfig:
    """The geometry of a tower, measured with an empty picture."""
    size = tower.image_size or image_size(encoder)
    states = hidden_states(encoder.eval(), torch.zeros(1, 3, size, size))
    if not -len(states) <= tower.feature_layer < len(states):
        raise UsageError(
            f"tower.feature_layer is {tower.feature_layer}: this tower has {len(states)} states, "
            f"{-len(states)} to {len(states) - 1}"
        )
    chosen = states[tower.feature_layer]
    grid = _grid(chosen, size, getattr(encoder.config, "patch_size", None))
    alike = all(state.shape == chosen.shape for state in states)
    given = VisionConfig()
    return VisionConfig(
        image_size=size,
        neck_channels=channels,
        token_grid=grid,
        hidden_size=patches(chosen, grid).shape[-1],
        layers=len(states) - 1 if alike else 0,  # a pyramid has no layers to set side by side
        heads=getattr(encoder.config, "num_attention_heads", given.heads),
        intermediate_size=getattr(encoder.config, "intermediate_size", given.intermediate_size),
        fine_grid=grid * max(1, round(size / FINE_STRIDE / grid)),
    )


def hidden_states(encoder: PreTrainedModel, pixel_values: Tensor) -> Sequence[Tensor]:
    """pixel_values [B,3,S,S] -> transformers' `hidden_states`, each [B,n,D], or [B,D,H,W]."""
    accepted = inspect.signature(encoder.forward).parameters
    config, side = encoder.config, pixel_values.shape[-1]
    more: dict[str, object] = {}
    if "spatial_shapes" in accepted:  # SigLIP 2 takes patches of pictures of any shape
        cells = side // config.patch_size
        pixel_values = patchified(pixel_values, config.patch_size)
        shapes = torch.full((len(pixel_values), 2), cells, device=pixel_values.device)
        more = {"spatial_shapes": shapes, "pixel_attention_mask": None}
    elif "interpolate_pos_encoding" in accepted and side != config.image_size:
        more = {"interpolate_pos_encoding": True}
    states: Sequence[Tensor] = encoder(
        pixel_values, output_hidden_states=True, **more
    ).hidden_states
    return states


def patchified(pixel_values: Tensor, patch: int) -> Tensor:
    """[B,3,S,S] -> [B,N,patch*patch*3], row by row, as transformers' Siglip2ImageProcessor."""
    squares = pixel_values.unfold(2, patch, patch).unfold(3, patch, patch)  # [B,3,n,n,p,p]
    return squares.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def patches(state: Tensor, grid: int) -> Tensor:
    """A hidden state -> its patches [B,grid*grid,D]: class and register tokens come first."""
    if state.ndim == 4:  # timm gives maps
        return state.flatten(2).transpose(1, 2)
    return state[:, -(grid**2) :]


def stack(module: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The layers of a transformer: the list of modules that holds most of its weights."""
    lists = [m for m in module.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))


def image_size(encoder: PreTrainedModel) -> int:
    """Side of the pictures that an encoder was made for, in pixels."""
    config = encoder.config
    size = getattr(config, "image_size", None)
    if isinstance(size, (list, tuple)):
        size = size[0]
    if size is None and hasattr(config, "num_patches"):
        size = math.isqrt(config.num_patches) * config.patch_size
    if size is None and hasattr(encoder, "timm_model"):
        given = (config.model_args or {}).get("img_size")
        size = given or encoder.timm_model.pretrained_cfg["input_size"][-1]
    if size is None:
        raise UsageError("this vision tower does not say its image size: set tower.image_size")
    return int(size)


def _vision_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a CLIP-like pair its vision half, without a pooling head that nobody reads."""
    config = getattr(config, "vision_config", config)
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False
    return config


def _grid(state: Tensor, size: int, patch: int | Sequence[int] | None) -> int:
    """Side of the square of patches in a hidden state of one picture."""
    if state.ndim == 4:
        if state.shape[2] != state.shape[3]:
            raise UsageError(f"this vision tower gives a map of {tuple(state.shape[2:])} patches")
        return state.shape[3]
    side = patch[0] if isinstance(patch, (list, tuple)) else patch
    grid = size // int(side) if side else math.isqrt(state.shape[1])
    surplus = state.shape[1] - grid**2
    if not 0 <= surplus <= MAX_SPECIAL_TOKENS:
        raise UsageError(
            f"this vision tower gives {state.shape[1]} tokens for {size} pixels, which is no "
            f"square of {grid} x {grid} patches: it cannot be used here"
        )
    return grid
