"""The running average of the weights, which is what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def update_average(
    average: Mapping[str, Tensor], weights: Mapping[str, Tensor], step: int, longest: float
) -> None:
    """Draw the average towards the weights after `step` steps, at most by the factor `longest`.

    It follows faster at the start. Of the weights that do not learn, the bf16 ones stay.
    """
    keep = min(longest, (1 + step) / (10 + step))
    ours, theirs = [], []
    for name, tensor in weights.items():
        if name.startswith("vision.backbone") and tensor.dtype == torch.bfloat16:
            continue  # frozen
        if tensor.is_floating_point():
            ours.append(average[name])
            theirs.append(tensor.detach())
        else:
            average[name].copy_(tensor)
    torch._foreach_lerp_(ours, theirs, 1 - keep)
