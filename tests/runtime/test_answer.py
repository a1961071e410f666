"""Answers are validated when made, and have one JSON shape."""

from __future__ import annotations

import json

import pytest

from edge_mm_runtime import Answer, GroundedObject, Step


def test_the_json_shape() -> None:
    cup = GroundedObject("red cup", (1.0, 2.0, 3.0, 4.123456), None, 0.987654)
    answer = Answer(
        "pick red cup", (cup,), True, (Step("pick", None, cup),), "stop", {"total": 1.5}
    )
    shown = json.loads(json.dumps(answer.to_dict()))
    as_json = {
        "label": "red cup",
        "box_xyxy": [1.0, 2.0, 3.0, 4.12],
        "point_xy": None,
        "confidence": 0.9877,
    }
    assert shown == {
        "text": "pick red cup",
        "found": True,
        "confidence": None,
        "finish_reason": "stop",
        "objects": [as_json],
        "steps": [{"action": "pick", "relation": None, "object": as_json}],
        "timings_ms": {"total": 1.5},
    }


def test_words_show_their_confidence() -> None:
    shown = Answer("yes", (), None, (), "stop", {}, confidence=0.987654).to_dict()
    assert shown["confidence"] == 0.9877


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence of 'cup'"):
        GroundedObject("cup", (0, 0, 1, 1), None, confidence)
    with pytest.raises(ValueError, match="confidence of 'red'"):
        Answer("red", (), None, (), "stop", {}, confidence=confidence)


def test_an_object_is_somewhere() -> None:
    with pytest.raises(ValueError, match="neither a box nor a point"):
        GroundedObject("cup", None, None, 0.5)
