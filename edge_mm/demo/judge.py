"""Is an answer right? Measured against what people labelled, with the reason in a few words."""

from __future__ import annotations

from typing import NamedTuple

from edge_mm.demo.questions import Box, Question
from edge_mm.evaluate.judge import iou
from edge_mm_runtime.answer import Answer, GroundedObject

RIGHT_IOU = 0.5


class Verdict(NamedTuple):
    right: bool
    why: str


def judge(question: Question, answer: Answer, labels: list[Box]) -> Verdict | None:
    """Verdict on one answer; None where the question does not say what is right."""
    if question.answer is not None:
        right = _plain(answer.text) == _plain(question.answer)
        return Verdict(right, "as labelled" if right else f"label: {question.answer}")
    if question.objects is not None:
        if not question.objects:
            right = answer.found is False  # an answer in other words refuses nothing
            return Verdict(right, "not in view" if right else "label: not in view")
        wanted = [labels[index] for index in question.objects]
        return _judge_objects(answer.objects, wanted, question.mode == "point")
    return None


def _judge_objects(found: tuple[GroundedObject, ...], labels: list[Box], points: bool) -> Verdict:
    if len(found) != len(labels):
        return Verdict(False, f"label: {len(labels)} in view")
    scores, left = [], list(labels)
    for item in found:  # each takes the label that it fits best
        fits = [_inside(item, box) if points else _overlap(item, box) for box in left]
        scores.append(max(fits))
        left.pop(fits.index(max(fits)))
    worst = min(scores)
    if points:
        return Verdict(worst > 0, "point on it" if worst > 0 else "point beside it")
    return Verdict(worst >= RIGHT_IOU, f"IoU {worst:.2f}")


def _overlap(item: GroundedObject, label: Box) -> float:
    return iou(item.box_xyxy, label) if item.box_xyxy else 0.0


def _inside(item: GroundedObject, label: Box) -> float:
    if item.point_xy is None:
        return 0.0
    x, y = item.point_xy
    return float(label[0] <= x <= label[2] and label[1] <= y <= label[3])


def _plain(text: str) -> str:
    return text.strip().rstrip(".").lower()
