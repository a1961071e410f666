"""Is a thing located with 80 % confidence right in 80 % of the cases?

Every thing that the exam's place questions located, with the confidence that a robot is told
(edge_mm_runtime.confidence) and whether it is right: its box fits a thing that was meant with IoU
>= 0.5, each thing once, or its point lies in that box; what was not there is never right.
Expected calibration error: Guo et al., arXiv 1706.04599; Brier, Monthly Weather Review 1950.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edge_mm.evaluate.exam import Marked
from edge_mm.evaluate.judge import holds, iou, pixels
from edge_mm.evaluate.metrics import Figure, one_by_one, ratio

BINS = 10
RIGHT_IOU = 0.5
PLACES = ("locate", "locate_all", "point", "absent")


class Bin(msgspec.Struct, frozen=True):
    """The located things whose confidence lies in low..high: how many, and how many are right."""

    low: float
    high: float
    n: int
    confidence: float  # mean
    right: float  # share


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Confidence [N] in 0..1 and right [N] -> the bins that hold something, equally wide."""
    index = _bin_of(confidence, bins)
    return [
        Bin(
            i / bins,
            (i + 1) / bins,
            int((index == i).sum()),
            round(float(confidence[index == i].mean()), 4),
            round(float(right[index == i].mean()), 4),
        )
        for i in range(bins)
        if (index == i).any()
    ]


def calibration_error(
    confidence: np.ndarray, right: np.ndarray, weights: np.ndarray, bins: int = BINS
) -> float:
    """Mean |confidence - accuracy| over equally wide bins, by what they weigh; all [N]."""
    surplus = np.bincount(_bin_of(confidence, bins), weights * (confidence - right), bins)
    return float(np.abs(surplus).sum() / max(weights.sum(), 1e-9))


def located(marked: Marked) -> Iterator[tuple[float, bool]]:
    """Confidence and rightness of each thing in an answer, the most confident first."""
    question, scene = marked.item.question, marked.item.scene
    left = [pixels(item.box, (scene.width, scene.height)) for item in marked.item.targets]
    for item in sorted(marked.answer.objects, key=lambda found: -found.confidence):
        if question.type == "point" or item.box_xyxy is None:
            fits = [float(item.point_xy is not None and holds(box, item.point_xy)) for box in left]
        else:
            fits = [iou(item.box_xyxy, box) for box in left]
        best = int(np.argmax(fits)) if fits else -1
        right = best >= 0 and fits[best] >= RIGHT_IOU
        if right:
            left.pop(best)
        yield item.confidence, right


def calibration(exam: Sequence[Sequence[Marked]]) -> tuple[dict[str, Figure], list[Bin]]:
    """The figures over the pictures of an exam, and the table behind them; empty without places."""
    rows = [
        (picture, confidence, float(right))
        for picture, answers in enumerate(exam)
        for marked in answers
        if marked.item.question.type in PLACES
        for confidence, right in located(marked)
    ]
    if not rows:
        return {}, []
    owner = np.array([row[0] for row in rows])
    confidence, right = np.array([row[1:] for row in rows]).T
    total = np.bincount(owner, minlength=len(exam))

    def share(values: np.ndarray) -> Figure:
        return ratio(np.bincount(owner, values, len(exam)), total, len(rows))

    def error(drawn: np.ndarray) -> float:
        weights = np.bincount(drawn, minlength=len(exam))[owner]
        return calibration_error(confidence, right, weights)

    found = {
        "located_right": share(right),
        "located_confidence": share(confidence),
        "located_brier": share((confidence - right) ** 2),
        "located_ece": one_by_one(error, len(rows)),
    }
    return found, reliability(confidence, right)


def _bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    index: np.ndarray = np.minimum((confidence * bins).astype(int), bins - 1)
    return index
