"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: their vision tower at one size, and where a picture stands.

A picture's patches turn by their row and column, in the tower and in the decoder, so both are
drawn for one size in pixels. Only single pictures: video is not imported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from edge_mm_export.errors import UnsupportedError


def check_size(config: Any, width: int, height: int) -> tuple[int, int]:
    """(width, height) again, of a tower for any size; UnsupportedError unless patches fill it."""
    step = getattr(config.vision_config, "patch_size", 1)
    step *= getattr(config.vision_config, "spatial_merge_size", 1)
    wide, high = (max(step, step * round(side / step)) for side in (width, height))
    if (wide, high) != (width, height):
        raise UnsupportedError(
            f"{config.model_type}: {width} x {height} pixels are no multiple of {step}: take "
            f"--image-size {wide}x{high}"
        )
    return width, height


class QwenTower(nn.Module):
    """pixel_values [1, 3, H, W] -> (image_embeds [1, T, D * (1 + deepstack)],).

    T is H * W / (patch_size * merge)^2. A still picture fills both frames of a temporal patch, so
    the two halves of the patch kernel are added. Windows of Qwen2.5-VL are a mask.
    """

    cosines: Tensor
    sines: Tensor
    order: Tensor
    restored: Tensor
    mask: Tensor
    places: Tensor

    def __init__(self, visual: Any, width: int, height: int) -> None:
        super().__init__()
        self.visual = visual
        config = visual.config
        self.merge, self.patch = config.spatial_merge_size, config.patch_size
        grid = torch.tensor([[1, height // self.patch, width // self.patch]])
        self.rows, self.columns = height // self.patch, width // self.patch
        windows = self._windows(grid)
        tokens = self.rows * self.columns
        order = torch.arange(tokens)
        if windows is not None:
            order = order.reshape(-1, self.merge**2)[windows[0]].flatten()
        positions = get_vision_position_ids(grid, self.merge)
        cosines, sines = visual.rotary_pos_emb(torch.zeros(1), positions)
        places = torch.zeros(1)
        if hasattr(visual, "pos_embed"):
            places = self._interpolated(grid)
        first = order[:: self.merge**2] // self.merge**2
        for name, value in {
            "cosines": cosines[order, None],
            "sines": sines[order, None],
            "order": order,
            "restored": torch.argsort(first),
            "mask": torch.ones(1) if windows is None else _blocks(windows[1], tokens),
            "places": places,
        }.items():
            self.register_buffer(name, value.detach(), persistent=False)
        self.windowed = windows is not None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the picture's tokens."""
        return self.rows // self.merge, self.columns // self.merge

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        """See the class."""
        visual = self.visual
        x = self._patches(pixel_values)
        if hasattr(visual, "pos_embed"):
            x = x + self.places
        if self.windowed:
            x = x[self.order]
        full = getattr(visual, "fullatt_block_indexes", range(len(visual.blocks)))
        deep = list(getattr(visual, "deepstack_visual_indexes", ()))
        further = []
        for index, block in enumerate(visual.blocks):
            x = x + self._attention(block.attn, block.norm1(x), masked=index not in full)
            x = x + block.mlp(block.norm2(x))
            if index in deep:
                further.append(visual.deepstack_merger_list[deep.index(index)](x))
        merged = visual.merger(x)
        if self.windowed:
            merged = merged[self.restored]
        return (torch.cat([merged, *further], dim=-1)[None],)

    def _patches(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, H, W] -> [N, E], the patches of a merged token side by side."""
        proj = self.visual.patch_embed.proj
        x = functional.conv2d(pixel_values, proj.weight.sum(2), proj.bias, stride=self.patch)
        merge = self.merge
        x = x.reshape(-1, self.rows // merge, merge, self.columns // merge, merge)
        return x.permute(1, 3, 2, 4, 0).reshape(self.rows * self.columns, -1)

    def _attention(self, attention: Any, x: Tensor, masked: bool) -> Tensor:
        count = len(x)
        packed = attention.qkv(x).reshape(count, 3, attention.num_heads, -1)
        query, key, value = packed.unbind(1)
        query, key, value = (
            part.transpose(0, 1)[None] for part in (self._turn(query), self._turn(key), value)
        )
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=self.mask if masked else None, scale=attention.scaling
        )
        output: Tensor = attention.proj(mixed[0].transpose(0, 1).reshape(count, -1))
        return output

    def _turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cosines + torch.cat([-second, first], dim=-1) * self.sines

    def _windows(self, grid: Tensor) -> tuple[Tensor, Tensor] | None:
        """Order of the merged tokens and where windows end, for Qwen2.5-VL."""
        if not hasattr(self.visual, "window_size"):
            return None
        order, ends = get_vision_window_index(grid, self.merge, self.visual.window_size, self.patch)
        return order, ends

    def _interpolated(self, grid: Tensor) -> Tensor:
        """Qwen3-VL's learned places [N, E], resampled to the grid."""
        visual = self.visual
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=self.merge,
        )
        places: Tensor = (visual.pos_embed(indices) * weights[:, :, None]).sum(1)
        return places


def _blocks(ends: Tensor, count: int) -> Tensor:
    """bool [count, count]: pairs that lie between the same two of `ends`."""
    window = torch.bucketize(torch.arange(count), ends, right=True)
    return window[:, None] == window[None]


def patches(model: Any, pixel_values: Tensor) -> dict[str, Tensor]:
    """pixel_values [1, 3, H, W] -> patches and their grid, as the family's own class takes them.

    A still picture is both frames of a temporal patch; the patches of a merged token lie side by
    side (`Qwen2VLImageProcessor`).
    """
    config = model.config.vision_config
    patch, merge, frames = config.patch_size, config.spatial_merge_size, config.temporal_patch_size
    _, colours, height, width = pixel_values.shape
    rows, columns = height // patch, width // patch
    cut = pixel_values.reshape(
        colours, rows // merge, merge, patch, columns // merge, merge, patch
    ).permute(1, 4, 2, 5, 0, 3, 6)
    cut = cut.reshape(rows * columns, colours, 1, patch, patch).expand(-1, -1, frames, -1, -1)
    return {
        "pixel_values": cut.reshape(rows * columns, -1),
        "image_grid_thw": torch.tensor([[1, rows, columns]]),
    }
