"""From what the model said to an Answer in pixels of the frame."""

from __future__ import annotations

import time
from typing import NamedTuple

from tokenizers import Tokenizer

from edge_mm_runtime.answer import Answer, GroundedObject, Step, Work
from edge_mm_runtime.codecs import Codec
from edge_mm_runtime.generate import Constraint, Generation
from edge_mm_runtime.grounding import Region
from edge_mm_runtime.guide import Evidence, GroundingGuide
from edge_mm_runtime.image import Placement
from edge_mm_runtime.question import Question
from edge_mm_runtime.view import Look

NOT_IN_VIEW = "not in view"
HALF_A_CHARACTER = "\ufffd"  # what a tokenizer makes of bytes that are not a character yet


class Asked(NamedTuple):
    """A question on its way to an answer: what was made of it before the decoder began."""

    question: Question
    placement: Placement
    prompt: list[int]
    constraint: Constraint
    look: Look
    asked_s: float  # on time.monotonic's clock
    started_s: float  # these three on time.perf_counter's
    seen_s: float  # the frame had become pixel_values
    looked_s: float  # and the decoder had the picture


def read_answer(
    asked: Asked,
    made: Generation,
    guide: GroundingGuide,
    prefilled: int,
    passes: int,
    tokenizer: Tokenizer,
    codec: Codec,
) -> Answer:
    """What was generated so far as an answer; `Work` says what the numbers are."""
    question, placement = asked.question, asked.placement
    whole = made.finish_reason == "stop"
    spoken: str = tokenizer.decode(made.ids, skip_special_tokens=False)
    if not whole:
        spoken = spoken.rstrip(HALF_A_CHARACTER)
    parsed = codec.parse(spoken, placement.model_width, placement.model_height)
    found = codec.found(parsed, question.mode, whole)
    # One for each place that was completed, and each of them is one region of the text.
    evidence = guide.evidence(made.ids, parsed, tokenizer)
    objects = tuple(
        _grounded(region, known, placement)
        for region, known in zip(parsed.objects, evidence, strict=True)
    )
    taken = asked.asked_s if question.timestamp_s is None else question.timestamp_s
    return Answer(
        text=NOT_IN_VIEW if found is False else parsed.text,
        objects=objects,
        found=found,
        steps=tuple(
            Step(step.action, step.relation, item)
            for step, item in zip(parsed.steps, objects, strict=False)
        ),
        finish_reason=made.finish_reason,
        timings_ms={
            "image": (asked.seen_s - asked.started_s) * 1e3,
            "vision": (asked.looked_s - asked.seen_s) * 1e3,
            "prefill": made.prefill_ms,
            "decode": made.decode_ms,
            "total": (time.perf_counter() - asked.started_s) * 1e3,
        },
        frame_id=question.frame_id,
        timestamp_s=taken,
        age_s=time.monotonic() - taken,
        confidence=guide.answer_confidence() if whole and not found else None,
        work=Work(
            prompt_tokens=len(asked.prompt),
            prefilled_tokens=prefilled,
            new_tokens=len(made.ids),
            decoder_passes=passes,
            looked=asked.look.looked,
            similar=asked.look.similar,
        ),
    )


def _grounded(region: Region, known: Evidence, placement: Placement) -> GroundedObject:
    """A region in frame pixels: the head's float place, or the one that the model spoke."""
    box = region.box if known.place is None else known.place[:4]
    point = region.point if known.place is None else known.place[4:]
    frame_box = None if box is None else placement.from_unit(box).tolist()
    frame_point = None if point is None else placement.from_unit(point).tolist()
    return GroundedObject(
        label=region.label,
        box_xyxy=frame_box and tuple(frame_box),
        point_xy=frame_point and tuple(frame_point),
        confidence=known.confidence,
    )
