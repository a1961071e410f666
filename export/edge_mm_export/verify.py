"""Is an exported graph still the model? Its answers against torch's, on frames and questions.

Each step of an export (fp32 graphs, then the stored precision) answers the same questions through
the runtime's own session. `compare` says how far it is from torch, `failures` what is too far.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edge_mm_export.probe import Trace
from edge_mm_export.samples import Sample
from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.confidence import iou
from edge_mm_runtime.image import ImageTransform


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


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What bundle.json keeps under `verification`."""

    data: str
    frames: int
    questions: int
    gate: Gate
    steps: tuple[StepFigures, ...]


def compare(
    step: str,
    samples: Sequence[Sample],
    torch_traces: Sequence[Trace],
    traces: Sequence[Trace],
    transform: ImageTransform,
    bins: int,
) -> StepFigures:
    """Measure `traces` against torch's; all three sequences run in parallel."""
    both = list(zip(samples, torch_traces, traces, strict=True))
    logits = np.array([pair for _, a, b in both for pair in _logits(a, b)])
    changed = [(sample, a, b) for sample, a, b in both if not _same(a, b)]
    sides, points = _places(both, transform)
    types = sorted({sample.type for sample, _, _ in changed})
    return StepFigures(
        step=step,
        questions=len(both),
        logits_cosine=float(logits[:, 0].mean()),
        logits_cosine_min=float(logits[:, 0].min()),
        logits_difference_max=float(logits[:, 1].max()),
        same_tokens=float(np.mean([_same_tokens(a, b) for _, a, b in both])),
        same_answers=1 - len(changed) / len(both),
        boxes=len(sides),
        mean_iou=float(np.mean([overlap for overlap, _ in sides])) if sides else 1.0,
        within_half_bin=(
            float(np.mean([error <= 0.5 / bins for _, error in sides])) if sides else 1.0
        ),
        point_error=float(np.mean(points)) if points else 0.0,
        changed_by_type={name: sum(s.type == name for s, _, _ in changed) for name in types},
        changed=tuple(
            Changed(sample.picture, sample.text, a.answer.text, b.answer.text)
            for sample, a, b in changed
        ),
    )


def failures(figures: StepFigures, gate: Gate) -> list[str]:
    """The figures that are below the gate, in words; empty when it holds."""
    return [
        f"{name} {getattr(figures, name):.4f} < {least:g}"
        for name, least in msgspec.structs.asdict(gate).items()
        if getattr(figures, name) < least
    ]


def worst(torch_traces: Sequence[Trace], traces: Sequence[Trace]) -> int:
    """Index of the answer whose logits are furthest from torch's at the end of the prompt."""
    first = [next(_logits(a, b)) for a, b in zip(torch_traces, traces, strict=True)]
    return int(np.argmin([cosine for cosine, _ in first]))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two arrays of one size; 1 when both are zero."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths else float(np.array_equal(x, y))


def _logits(a: Trace, b: Trace) -> Iterator[tuple[float, float]]:
    """(cosine, largest difference) at every position that both have read alike."""
    for total in sorted(a.logits.keys() & b.logits.keys()):
        if a.ids[:total] == b.ids[:total]:
            x, y = a.logits[total], b.logits[total]
            yield cosine(x, y), float(np.abs(x - y).max())


def _same_tokens(a: Trace, b: Trace) -> float:
    expected, found = a.generated, b.generated
    if not expected:
        return float(not found)
    equal = np.array([x == y for x, y in zip(expected, found, strict=False)], bool)
    return float(np.cumprod(equal).sum()) / len(expected)


def _same(a: Trace, b: Trace) -> bool:
    x, y = a.answer, b.answer
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


def _places(
    both: Sequence[tuple[Sample, Trace, Trace]], transform: ImageTransform
) -> tuple[list[tuple[float, float]], list[float]]:
    """((IoU, largest side error) of each box of torch's, error of each point), unit coordinates."""
    sides: list[tuple[float, float]] = []
    points: list[float] = []
    for sample, a, b in both:
        placement = transform.placement(sample.frame.shape[1], sample.frame.shape[0])
        found = _counterparts(a.answer.objects, b.answer.objects)
        for expected, got in zip(a.answer.objects, found, strict=True):
            if expected.box_xyxy is not None:
                if got is None or got.box_xyxy is None:
                    sides.append((0.0, 1.0))
                else:
                    x, y = (placement.to_unit(box) for box in (expected.box_xyxy, got.box_xyxy))
                    sides.append((float(iou(x, y[None])[0]), float(np.abs(x - y).max())))
            if expected.point_xy is not None and got is not None and got.point_xy is not None:
                x, y = (placement.to_unit(at) for at in (expected.point_xy, got.point_xy))
                points.append(float(np.linalg.norm(x - y)))
    return sides, points
