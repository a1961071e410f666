"""Is what is said with 80 % confidence right in 80 % of the cases?

With the confidence that a robot is told (edge_mm_runtime.confidence), and whether it is right:
  located  every thing that the exam's place questions located: its box fits a thing that was meant
           with IoU >= 0.5, each thing once, or its point lies in that box; what was not there is
           never right
  words    every answer to a question that words answer: they are the right ones, all of them. An
           answer without a confidence, cut short or with places instead, is left out
Expected calibration error: Guo et al., arXiv 1706.04599; Brier, Monthly Weather Review 1950.
Whether a threshold on the confidence parts right from wrong is another matter: the area under the
ROC curve (Hanley and McNeil 1982, doi 10.1148/radiology.143.1.7063747).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edge_mm.evaluate.exam import Marked
from edge_mm.evaluate.judge import holds, iou, pixels
from edge_mm.evaluate.metrics import Figure, one_by_one, ratio

BINS = 10
RIGHT_IOU = 0.5
PLACES = ("locate", "locate_all", "point", "absent")
WORDS = ("exist", "count", "color", "relation", "compare", "order")

Weighted = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Of confidence, right and weights, each [N]."""


class Bin(msgspec.Struct, frozen=True):
    """What was said with a confidence in low..high: how much, and how much of it is right."""

    low: float
    high: float
    n: int
    confidence: float  # mean
    right: float  # share


class Calibration(NamedTuple):
    """The figures, and the tables behind those of the located things and of the words."""

    figures: dict[str, Figure]
    located: list[Bin]
    words: list[Bin]


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


def auroc(confidence: np.ndarray, right: np.ndarray, weights: np.ndarray) -> float:
    """Share of the pairs (right, wrong) in which the right one is surer, ties half; all [N].

    The area under the ROC curve; 0.5 where there is no such pair.
    """
    levels, level = np.unique(confidence, return_inverse=True)
    good = np.bincount(level, weights * right, len(levels))
    bad = np.bincount(level, weights * (1 - right), len(levels))
    pairs = float(good.sum() * bad.sum())
    surer = float((good * (np.cumsum(bad) - bad / 2)).sum())
    return surer / pairs if pairs else 0.5


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


def worded(marked: Marked) -> Iterator[tuple[float, bool]]:
    """Confidence and rightness of an answer in words; nothing where it has no confidence."""
    if marked.answer.confidence is not None:
        yield marked.answer.confidence, marked.answer.text == marked.item.question.answer


def calibration(exam: Sequence[Sequence[Marked]]) -> Calibration:
    """The figures over the pictures of an exam; without any for what was never said."""
    places, located_bins = _measured("located", exam, PLACES, located)
    words, word_bins = _measured("words", exam, WORDS, worded)
    return Calibration(places | words, located_bins, word_bins)


def _measured(
    name: str,
    exam: Sequence[Sequence[Marked]],
    types: Sequence[str],
    said: Callable[[Marked], Iterator[tuple[float, bool]]],
) -> tuple[dict[str, Figure], list[Bin]]:
    """NAME_right, _confidence, _brier, _ece and _auroc of questions of these types.

    Without NAME_auroc where all are right, or none is.
    """
    rows = [
        (picture, confidence, float(right))
        for picture, answers in enumerate(exam)
        for marked in answers
        if marked.item.question.type in types
        for confidence, right in said(marked)
    ]
    if not rows:
        return {}, []
    owner = np.array([row[0] for row in rows])
    confidence, right = np.array([row[1:] for row in rows]).T
    total = np.bincount(owner, minlength=len(exam))

    def share(values: np.ndarray) -> Figure:
        return ratio(np.bincount(owner, values, len(exam)), total, len(rows))

    def weighted(of: Weighted) -> Figure:
        def drawn_again(drawn: np.ndarray) -> float:
            return of(confidence, right, np.bincount(drawn, minlength=len(exam))[owner])

        return one_by_one(drawn_again, len(rows))

    found = {
        f"{name}_right": share(right),
        f"{name}_confidence": share(confidence),
        f"{name}_brier": share((confidence - right) ** 2),
        f"{name}_ece": weighted(calibration_error),
    }
    if 0 < right.sum() < len(right):
        found[f"{name}_auroc"] = weighted(auroc)
    return found, reliability(confidence, right)


def _bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    index: np.ndarray = np.minimum((confidence * bins).astype(int), bins - 1)
    return index
