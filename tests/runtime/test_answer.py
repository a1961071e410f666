"""Answers are validated when made, and have one JSON shape."""

from __future__ import annotations

import json

import pytest

from edge_mm_runtime import Answer, GroundedObject, Step
from edge_mm_runtime.answer import Work


def test_the_json_shape() -> None:
    cup = GroundedObject("red cup", (1.0, 2.0, 3.0, 4.123456), None, 0.987654, 3, (0.1, 0, 1 / 3))
    answer = Answer(
        "pick red cup",
        (cup,),
        True,
        (Step("pick", None, cup),),
        "stop",
        {"total": 1.5},
        work=Work(24, 4, 9, 5, looked=False, similar=True),
    )
    shown = json.loads(json.dumps(answer.to_dict()))
    as_json = {
        "label": "red cup",
        "box_xyxy": [1.0, 2.0, 3.0, 4.12],
        "point_xy": None,
        "confidence": 0.9877,
        "track_id": 3,
        "xyz_m": [0.1, 0, 0.3333],
    }
    assert shown == {
        "text": "pick red cup",
        "found": True,
        "confidence": None,
        "visual_evidence": None,
        "finish_reason": "stop",
        "objects": [as_json],
        "steps": [{"action": "pick", "relation": None, "object": as_json}],
        "timings_ms": {"total": 1.5},
        "work": {
            "prompt_tokens": 24,
            "prefilled_tokens": 4,
            "new_tokens": 9,
            "decoder_passes": 5,
            "looked": False,
            "similar": True,
        },
    }


def test_what_is_not_known_of_an_object_is_left_out() -> None:
    cup = GroundedObject("cup", (0, 0, 1, 1), None, 0.5)
    [shown] = Answer("cup", (cup,), True, (), "stop", {}).to_dict()["objects"]
    assert set(shown) == {"label", "box_xyxy", "point_xy", "confidence"}


def test_words_show_their_confidence() -> None:
    answer = Answer("yes", (), None, (), "stop", {}, confidence=0.987654, visual_evidence=0.123456)
    shown = answer.to_dict()
    assert (shown["confidence"], shown["visual_evidence"]) == (0.9877, 0.1235)
    assert shown["work"] is None


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_confidence_is_a_probability(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence of 'cup'"):
        GroundedObject("cup", (0, 0, 1, 1), None, confidence)
    with pytest.raises(ValueError, match="confidence of 'red'"):
        Answer("red", (), None, (), "stop", {}, confidence=confidence)
    with pytest.raises(ValueError, match="visual_evidence of 'red'"):
        Answer("red", (), None, (), "stop", {}, visual_evidence=confidence)


def test_an_object_is_somewhere() -> None:
    with pytest.raises(ValueError, match="neither a box nor a point"):
        GroundedObject("cup", None, None, 0.5)
