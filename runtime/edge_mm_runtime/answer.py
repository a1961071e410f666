"""What `Session.ask` gives back, in pixels of the frame that was asked about."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

# What is asked for; selects the grammar of the answer and nothing else. auto allows every kind.
Mode = Literal["auto", "locate", "point", "answer", "caption", "steps"]
MODES: tuple[Mode, ...] = get_args(Mode)

FinishReason = Literal["stop", "length", "timeout"]


class GroundedObject(msgspec.Struct, frozen=True):
    """Something that the model located.

    box_xyxy    x1 y1 x2 y2 in frame pixels, inside the frame; None when only a point was asked of
                a model that speaks its locations as tokens
    point_xy    x y in frame pixels: where to touch or grasp; None in the opposite case
    confidence  0..1 (see confidence.py)
    """

    label: str
    box_xyxy: tuple[float, float, float, float] | None
    point_xy: tuple[float, float] | None
    confidence: float
    track_id: int | None = None
    xyz_m: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.box_xyxy is None and self.point_xy is None:
            raise ValueError(f"{self.label!r} has neither a box nor a point")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence of {self.label!r} is {self.confidence}, not in 0..1")


class Step(msgspec.Struct, frozen=True):
    """One step of an instruction: pick | place | push | point to, [relation], object."""

    action: str
    relation: str | None
    object: GroundedObject


class Answer(msgspec.Struct, frozen=True):
    """One answer.

    text           for people: "red cup", "not in view", "pick red cup; place left of blue bowl"
    found          False: the model says it is not in view; None: free text, nothing was located
    confidence     0..1, of words and of "not in view": the probability of the whole answer (see
                   confidence.py). None where things were located, each has its own, and where
                   the answer was cut short
    finish_reason  stop; length: max_new_tokens or the context was reached; timeout. After length
                   and timeout, `objects` holds what was complete by then
    timings_ms     image, vision, prefill, decode, total; vision is 0 when the frame was known
    timestamp_s    when the frame was taken, on time.monotonic's clock; age_s how long that was
                   ago when the answer was ready
    """

    text: str
    objects: tuple[GroundedObject, ...]
    found: bool | None
    steps: tuple[Step, ...]
    finish_reason: FinishReason
    timings_ms: dict[str, float]
    frame_id: int | str | None = None
    timestamp_s: float | None = None
    age_s: float | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence of {self.text!r} is {self.confidence}, not in 0..1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what `edge-mm ask --json` prints."""
        return {
            "text": self.text,
            "found": self.found,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "finish_reason": self.finish_reason,
            "objects": [_object(item) for item in self.objects],
            "steps": [
                {
                    "action": step.action,
                    "relation": step.relation,
                    "object": _object(step.object),
                }
                for step in self.steps
            ],
            "timings_ms": {name: round(value, 2) for name, value in self.timings_ms.items()},
        }


def _object(item: GroundedObject) -> dict[str, Any]:
    return {
        "label": item.label,
        "box_xyxy": item.box_xyxy and [round(value, 2) for value in item.box_xyxy],
        "point_xy": item.point_xy and [round(value, 2) for value in item.point_xy],
        "confidence": round(item.confidence, 4),
    }
