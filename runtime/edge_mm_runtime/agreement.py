"""How far answers are from torch's: the figures that an exported model is judged by.

The exporter measures every step of an export with them (`edge_mm_export.verify`), `edge-mm check`
measures the bundle again on the robot, against the references that lie in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.confidence import iou
from edge_mm_runtime.image import Placement


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """The least that an export must reach, all of it, or no bundle is written."""

    logits_cosine: float = 0.99
    same_answers: float = 0.95
    mean_iou: float = 0.95
    within_half_bin: float = 0.95


class Changed(msgspec.Struct, frozen=True):
    """An answer that is not torch's."""

    picture: str
    question: str
    torch: str
    exported: str


class StepFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How far one step of the export is from torch; shares are 0..1."""

    step: str
    questions: int
    logits_cosine: float  # mean over every position that both have read alike
    logits_cosine_min: float
    logits_difference_max: float
    same_tokens: float  # of torch's greedy ids, those before the first different one
    same_answers: float  # text, labels and number of objects are torch's
    boxes: int
    mean_iou: float  # with torch's boxes; 0 for an object that is not answered; 1 without boxes
    within_half_bin: float  # boxes with every side within half a location bin of torch's
    point_error: float  # mean distance of grasp points, in sides of the model's input
    changed_by_type: dict[str, int]
    changed: tuple[Changed, ...]


@dataclass(frozen=True)
class Pair:
    """One question that both torch and an exported model have answered, about one frame.

    type         groups figures, e.g. locate or count
    placement    of the frame: boxes are compared in sides of the model's input
    logits       (cosine, largest difference) with torch's at each position, the first one being
                 the end of the prompt
    same_tokens  see `same_tokens`
    """

    picture: str
    question: str
    type: str
    placement: Placement
    torch: Answer
    exported: Answer
    logits: Sequence[tuple[float, float]]
    same_tokens: float


def measure(step: str, pairs: Sequence[Pair], bins: int) -> StepFigures:
    """The figures of at least one pair; `bins` is the number of location bins a side."""
    logits = np.array([position for pair in pairs for position in pair.logits])
    changed = [pair for pair in pairs if not _same(pair.torch, pair.exported)]
    sides, points = _places(pairs)
    types = sorted({pair.type for pair in changed})
    return StepFigures(
        step=step,
        questions=len(pairs),
        logits_cosine=float(logits[:, 0].mean()),
        logits_cosine_min=float(logits[:, 0].min()),
        logits_difference_max=float(logits[:, 1].max()),
        same_tokens=float(np.mean([pair.same_tokens for pair in pairs])),
        same_answers=1 - len(changed) / len(pairs),
        boxes=len(sides),
        mean_iou=float(np.mean([overlap for overlap, _ in sides])) if sides else 1.0,
        within_half_bin=(
            float(np.mean([error <= 0.5 / bins for _, error in sides])) if sides else 1.0
        ),
        point_error=float(np.mean(points)) if points else 0.0,
        changed_by_type={name: sum(pair.type == name for pair in changed) for name in types},
        changed=tuple(
            Changed(pair.picture, pair.question, pair.torch.text, pair.exported.text)
            for pair in changed
        ),
    )


def failures(figures: StepFigures, gate: Gate) -> list[str]:
    """The figures that are below the gate, in words; empty when it holds."""
    return [
        f"{name} {getattr(figures, name):.4f} < {least:g}"
        for name, least in msgspec.structs.asdict(gate).items()
        if not getattr(figures, name) >= least  # so that NaN is below it as well
    ]


def allowing_one(gate: Gate, figures: StepFigures) -> Gate:
    """The gate for figures of a few questions and boxes: one of each may always differ.

    A gate is a share of all that an export is verified on: 0.95 of 48 boxes lets two of them
    differ, 0.95 of 16 would let none, and the last bits of logits are each processor's own.
    """

    def share(least: float, count: int) -> float:
        return min(least, 1 - 1 / count) if count else least

    return msgspec.structs.replace(
        gate,
        same_answers=share(gate.same_answers, figures.questions),
        mean_iou=share(gate.mean_iou, figures.boxes),
        within_half_bin=share(gate.within_half_bin, figures.boxes),
    )


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Cosine of two arrays of one size; 1 when both are zero."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths else float(np.array_equal(x, y))


def compare_logits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[float, float]:
    """(cosine, largest difference) of two sets of logits."""
    return cosine(a, b), float(np.abs(a - b).max())


def same_tokens(expected: Sequence[int], found: Sequence[int]) -> float:
    """The share of the expected ids that comes before the first different one."""
    if not expected:
        return float(not found)
    equal = np.array([x == y for x, y in zip(expected, found, strict=False)], bool)
    return float(np.cumprod(equal).sum()) / len(expected)


def _same(x: Answer, y: Answer) -> bool:
    labels = [[item.label for item in answer.objects] for answer in (x, y)]
    return x.text == y.text and x.found == y.found and labels[0] == labels[1]


def _counterparts(
    expected: Sequence[GroundedObject], found: Sequence[GroundedObject]
) -> list[GroundedObject | None]:
    """The object of `found` that stands for each expected one: of its label, best overlap first.

    With the same labels in the same order it is the one at the same place in the answer.
    """
    if [item.label for item in expected] == [item.label for item in found]:
        return list(found)
    overlaps = sorted(
        (-_overlap(a, b), i, j)
        for i, a in enumerate(expected)
        for j, b in enumerate(found)
        if a.label == b.label
    )
    pairs: dict[int, int] = {}
    for overlap, i, j in overlaps:
        if overlap and i not in pairs and j not in pairs.values():
            pairs[i] = j
    return [found[pairs[i]] if i in pairs else None for i in range(len(expected))]


def _overlap(a: GroundedObject, b: GroundedObject) -> float:
    if a.box_xyxy is None or b.box_xyxy is None:
        return 0.0
    return float(iou(np.array(a.box_xyxy), np.array([b.box_xyxy]))[0])


def _places(pairs: Sequence[Pair]) -> tuple[list[tuple[float, float]], list[float]]:
    """((IoU, largest side error) of each box of torch's, error of each point), unit coordinates."""
    sides: list[tuple[float, float]] = []
    points: list[float] = []
    for pair in pairs:
        to_unit = pair.placement.to_unit
        found = _counterparts(pair.torch.objects, pair.exported.objects)
        for expected, got in zip(pair.torch.objects, found, strict=True):
            if expected.box_xyxy is not None:
                if got is None or got.box_xyxy is None:
                    sides.append((0.0, 1.0))
                else:
                    x, y = to_unit(expected.box_xyxy), to_unit(got.box_xyxy)
                    sides.append((float(iou(x, y[None])[0]), float(np.abs(x - y).max())))
            if expected.point_xy is not None and got is not None and got.point_xy is not None:
                x, y = to_unit(expected.point_xy), to_unit(got.point_xy)
                points.append(float(np.linalg.norm(x - y)))
    return sides, points
