"""Objectives of the region head: where a query points, and what each cell shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BACKGROUND = 0.25  # weight of a cell without an object


def pointing_loss(scores: Tensor, target: Tensor) -> Tensor:
    """-log of the probability mass on the right cells; rows without a right cell do not count.

    scores [M,P] of M pointers over P cells, target bool [M,P] -> scalar.
    """
    pointed = target.any(-1)
    if not pointed.any():
        return scores.sum() * 0.0
    scores, target = scores[pointed].float(), target[pointed]
    inside = scores.masked_fill(~target, float("-inf")).logsumexp(-1)
    return (scores.logsumexp(-1) - inside).mean()


def mention_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Binary cross entropy of "this cell is meant", object and background weighing the same.

    scores [M,P], target bool [M,P]; a row without a right cell is all background -> scalar.
    """
    if not len(scores):
        return scores.sum() * 0.0
    losses = F.binary_cross_entropy_with_logits(scores.float(), target.float(), reduction="none")
    inside, outside = (
        (losses * cells).sum(-1) / cells.sum(-1).clamp(min=1) for cells in (target, ~target)
    )
    return (inside + outside).mean()


def place_loss(places: Tensor, target: Tensor) -> Tensor:
    """L1 between places [N,C] and the known ones, NaN where not known; mean over what is known."""
    known = ~target.isnan()
    if not known.any():
        return places.sum() * 0.0
    return F.l1_loss(places[known].float(), target[known])


def box_loss(boxes: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU (arXiv 1902.09630) plus scaled L1; boxes and points [N,6] in unit coordinates."""
    if not len(boxes):
        return boxes.sum() * 0.0
    boxes, target = boxes.float(), target.float()
    sides = (target[:, 2:4] - target[:, :2]).clamp(min=1e-3)
    box_error = ((boxes[:, :4] - target[:, :4]).abs() / sides.repeat(1, 2)).clamp(max=4).mean()
    point_error = ((boxes[:, 4:] - target[:, 4:]).abs() / sides).clamp(max=4).mean()
    return (1 - generalised_iou(boxes[:, :4], target[:, :4])).mean() + box_error + 0.5 * point_error


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of boxes [N,4] x1 y1 x2 y2, row by row, in -1..1."""
    intersection = _area(torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:]))
    union = _area(a[:, :2], a[:, 2:]) + _area(b[:, :2], b[:, 2:]) - intersection
    hull = _area(torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:]))
    return intersection / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def _area(corner: Tensor, opposite: Tensor) -> Tensor:
    return (opposite - corner).clamp(min=0).prod(-1)


def looks_loss(logits: Tensor, target: Tensor) -> Tensor:
    """What a cell shows: logits [N,C], class [N]; the background counts BACKGROUND."""
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = BACKGROUND
    return F.cross_entropy(logits.float(), target, weight=weight)
