"""What few questions may differ by. The arithmetic is tested in tests/export/test_verify.py."""

from __future__ import annotations

import msgspec
import pytest

from edge_mm_runtime.agreement import Gate, StepFigures, allowing_one, failures, same_tokens


def figures(questions: int, boxes: int, wrong: int) -> StepFigures:
    """`wrong` answers are lost, with one box each."""
    share = 1 - wrong / boxes
    return StepFigures(
        step="int8",
        questions=questions,
        logits_cosine=1.0,
        logits_cosine_min=1.0,
        logits_difference_max=0.0,
        same_tokens=1.0,
        same_answers=1 - wrong / questions,
        boxes=boxes,
        mean_iou=share,
        within_half_bin=share,
        point_error=0.0,
        changed_by_type={},
        changed=(),
    )


@pytest.mark.parametrize("questions", [4, 19, 27])
def test_one_of_a_few_may_differ_and_no_more(questions: int) -> None:
    one, two = (figures(questions, questions, wrong) for wrong in (1, 2))
    assert failures(one, allowing_one(Gate(), one)) == []
    assert len(failures(two, allowing_one(Gate(), two))) == 3


def test_of_many_the_gate_allows_its_share() -> None:
    many = figures(100, 80, 5)
    assert allowing_one(Gate(), many) == Gate()
    strict = Gate(logits_cosine=1.0, same_answers=1.0, mean_iou=1.0, within_half_bin=1.0)
    assert allowing_one(strict, many).logits_cosine == 1.0  # the mean of many numbers


def test_without_boxes_theirs_is_no_matter() -> None:
    none = msgspec.structs.replace(figures(5, 5, 0), boxes=0)
    assert allowing_one(Gate(), none).mean_iou == Gate().mean_iou


def test_tokens_after_the_first_different_one_do_not_count() -> None:
    assert same_tokens([1, 2, 3, 4], [1, 2, 9, 4]) == 0.5
    assert same_tokens([1, 2], [1, 2, 3]) == 1.0
    assert (same_tokens([], []), same_tokens([], [1])) == (1.0, 0.0)
