"""Which answers are failures, and which of them are shown."""

from __future__ import annotations

import pytest

from edge_mm.data.questions import Question
from edge_mm.data.scenes import Scene
from edge_mm.evaluate.exam import Item, Marked
from edge_mm.report.failures import rightness, worst
from edge_mm_runtime.answer import Answer, GroundedObject


def marked(kind: str, scores: dict[str, float], confidence: float | None = None) -> Marked:
    thing = () if confidence is None else (GroundedObject("cup", None, (1.0, 1.0), confidence),)
    scene = Scene("0", "0.png", 10, 10, ())
    answer = Answer("cup", thing, None, (), "stop", {})
    return Marked(Item(scene, Question(kind, "?", "!"), ()), answer, scores)


@pytest.mark.parametrize(
    ("scores", "right"),
    [
        ({"found": 1.0, "locate_acc50": 0.0, "locate_iou": 0.3, "point_in_box": 1.0}, 0.3),
        ({"found": 1.0, "locate_all_f1": 0.8}, 0.8),
        ({"found": 1.0, "point_in_box": 1.0, "point_in_mask": 0.0}, 1.0),
        ({"absent_refused": 0.0}, 0.0),
        ({"color_acc": 1.0}, 1.0),
        ({"steps_exact": 0.0}, 0.0),
        ({"exist_f1.hit": 0.0, "exist_f1.said": 0.0, "exist_f1.true": 0.0}, 1.0),
        ({"exist_f1.hit": 0.0, "exist_f1.said": 1.0, "exist_f1.true": 0.0}, 0.0),
    ],
)
def test_how_right_an_answer_is(scores: dict[str, float], right: float) -> None:
    assert rightness(scores) == right


def test_the_worst_of_every_type_come_first() -> None:
    near = marked("locate", {"locate_iou": 0.4})
    doubtful = marked("locate", {"locate_iou": 0.0}, 0.2)
    sure = marked("locate", {"locate_iou": 0.0}, 0.9)
    good = marked("locate", {"locate_iou": 0.9})
    color = marked("color", {"color_acc": 0.0})
    exam = [[near, doubtful], [good, sure], [color]]
    assert worst(exam) == [sure, color, doubtful, near]
    assert worst(exam, 2) == [sure, color]
    assert worst([[good]]) == []
