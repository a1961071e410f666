"""The figures of a comparison, on traces made by hand."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from edge_mm_export.probe import Trace
from edge_mm_export.samples import Sample
from edge_mm_export.verify import Gate, StepFigures, compare, cosine, failures, worst
from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.image import ImageTransform

TRANSFORM = ImageTransform("squash", 64, 64)
FRAME = np.zeros((100, 200, 3), np.uint8)
SAMPLE = Sample("a.png", FRAME, "find the cup", "locate")
LOGITS = np.array([1.0, 2.0, 3.0], np.float32)


def located(*boxes: tuple[float, float, float, float], label: str = "cup") -> Trace:
    objects = tuple(
        GroundedObject(label, box, ((box[0] + box[2]) / 2, box[3]), 0.9) for box in boxes
    )
    answer = Answer(", ".join([label] * len(boxes)), objects, True, (), "stop", {})
    return Trace(answer, (1, 2, 3, 8, 9), 3, {3: LOGITS, 5: LOGITS})


def figures(expected: Trace, found: Trace) -> StepFigures:
    return compare("int8", [SAMPLE], [expected], [found], TRANSFORM, 128)


def test_equal_traces_are_perfect() -> None:
    trace = located((20, 10, 60, 50), (80, 10, 90, 50))
    found = figures(trace, trace)
    assert (found.boxes, found.mean_iou, found.within_half_bin) == (2, 1.0, 1.0)
    assert (found.same_answers, found.same_tokens, found.point_error) == (1.0, 1.0, 0.0)
    assert found.logits_cosine == pytest.approx(1.0)
    assert failures(found, Gate()) == []


def test_boxes_are_compared_in_units_of_the_models_input() -> None:
    moved = figures(located((20, 10, 60, 50)), located((20, 10, 60, 50.3)))
    assert moved.within_half_bin == 1.0  # 0.3 / 100 < 0.5 / 128
    moved = figures(located((20, 10, 60, 50)), located((20, 10, 60, 50.5)))
    assert moved.within_half_bin == 0.0
    assert moved.mean_iou == pytest.approx(40 / 40.5)
    assert moved.point_error == pytest.approx(0.005)


def test_a_changed_answer_counts_its_boxes_as_lost() -> None:
    found = figures(located((20, 10, 60, 50)), located((20, 10, 60, 50), label="mug"))
    assert (found.same_answers, found.mean_iou, found.within_half_bin) == (0.0, 0.0, 0.0)
    assert found.changed_by_type == {"locate": 1}
    assert (found.changed[0].torch, found.changed[0].exported) == ("cup", "mug")
    missed = " ".join(failures(found, Gate()))
    assert "same_answers 0.0000 < 0.95" in missed and "logits" not in missed


def test_a_lost_object_loses_its_own_box_only() -> None:
    boxes = (20, 10, 60, 50), (62, 10, 70, 50), (80, 10, 90, 50)
    found = figures(located(*boxes), located(boxes[0], boxes[2]))
    assert found.same_answers == 0.0
    assert (found.boxes, found.mean_iou) == (3, pytest.approx(2 / 3))


def test_logits_are_compared_only_where_the_same_ids_were_read() -> None:
    a = located((20, 10, 60, 50))
    far = {3: LOGITS + 0.5, 5: -LOGITS}
    b = dataclasses.replace(a, ids=(1, 2, 3, 7, 9), logits=far)
    found = figures(a, b)
    assert found.logits_difference_max == pytest.approx(0.5)
    assert found.logits_cosine == pytest.approx(cosine(LOGITS, LOGITS + 0.5))
    assert found.same_tokens == 0.0  # the first generated id differs already


def test_worst_is_the_prompt_with_the_lowest_cosine() -> None:
    good = located((20, 10, 60, 50))
    bad = dataclasses.replace(good, logits={3: -LOGITS, 5: LOGITS})
    assert worst([good, good, good], [good, bad, good]) == 1


def test_gate_is_part_of_the_figures_vocabulary() -> None:
    names = {field.name for field in msgspec.structs.fields(StepFigures)}
    assert {field.name for field in msgspec.structs.fields(Gate)} <= names
