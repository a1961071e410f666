"""What `Session.ask` gives back, in pixels of the frame that was asked about."""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec

# What is asked for; selects the grammar of the answer and nothing else. auto allows every kind.
Mode = Literal["auto", "locate", "point", "answer", "caption", "steps"]
MODES: tuple[Mode, ...] = get_args(Mode)

FinishReason = Literal["stop", "length", "timeout", "cancelled", "partial"]


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


class Work(msgspec.Struct, frozen=True):
    """What an answer cost, counted at the engines.

    prompt_tokens     of the whole prompt, those of the picture included
    prefilled_tokens  those of them that were computed; the rest was in the cache
    new_tokens        of the answer, without the one that ended it
    decoder_passes    runs of the decoder, the prompt's included
    looked            the vision graph ran: the frame was not the last one
    similar           a frame that looks the same was seen in its place (Session's `similar`)
    """

    prompt_tokens: int
    prefilled_tokens: int
    new_tokens: int
    decoder_passes: int
    looked: bool
    similar: bool


class Answer(msgspec.Struct, frozen=True):
    """One answer.

    text           for people: "red cup", "not in view", "pick red cup; place left of blue bowl"
    found          False: the model says it is not in view; None: free text, nothing was located
    confidence     0..1, of words and of "not in view": the probability of the whole answer (see
                   confidence.py). None where things were located, each has its own, and where
                   the answer was cut short
    finish_reason  stop; length: max_new_tokens or the context was reached; timeout; cancelled;
                   partial: of a stream, more follows. After all but stop, `objects` holds what was
                   complete by then
    timings_ms     image, vision, prefill, decode, total, and evidence where it was asked for;
                   vision is about 0 when the frame was known
    timestamp_s    when the frame was taken, on time.monotonic's clock; age_s how long that was
                   ago when the answer was ready
    work           what it cost, without what `visual_evidence` cost
    visual_evidence
                   0..1: how much of the answer's probability goes when the picture is blanked
                   (see evidence.py). None where it was not asked for, where the answer was cut
                   short, and where there was no time left for it
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
    work: Work | None = None
    visual_evidence: float | None = None

    def __post_init__(self) -> None:
        for name in ("confidence", "visual_evidence"):
            share = getattr(self, name)
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} of {self.text!r} is {share}, not in 0..1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: what `edge-mm ask --json` prints.

        Objects have track_id and xyz_m only where they are known.
        """
        return {
            "text": self.text,
            "found": self.found,
            "confidence": _rounded(self.confidence),
            "visual_evidence": _rounded(self.visual_evidence),
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
            "work": msgspec.to_builtins(self.work),
        }


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)


def _object(item: GroundedObject) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "label": item.label,
        "box_xyxy": item.box_xyxy and [round(value, 2) for value in item.box_xyxy],
        "point_xy": item.point_xy and [round(value, 2) for value in item.point_xy],
        "confidence": round(item.confidence, 4),
    }
    if item.track_id is not None:
        shown["track_id"] = item.track_id
    if item.xyz_m is not None:
        shown["xyz_m"] = [round(value, 4) for value in item.xyz_m]
    return shown
