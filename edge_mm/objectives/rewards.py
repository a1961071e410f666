"""Verifiable rewards: what an answer is worth, 0..1, by comparing it with the right one.

Smoother than the metrics of evaluate.judge, so that a better box is worth more:

question type              reward
locate, locate_all         mean IoU of the matched boxes; missing and superfluous ones count as 0
point                      1 at the right point, falling to 0 at POINT_RADIUS from it
steps                      mean IoU of the boxes if actions, relations and labels are right, else 0
exist, count, color, ...   1 for the exact words
absent                     1 for saying that it is not in view

A malformed answer is worth 0, and so is a place for what is not there.
"""

from __future__ import annotations

import math

from edge_mm.evaluate.judge import WORD_METRICS, Box, iou, matched_overlaps
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grounding import DEFAULT_BINS, Parsed, parse

EXACT = (*WORD_METRICS, "exist", "identify", "absent")
PLACES = ("locate", "locate_all", "point", "steps")
POINT_RADIUS = 0.1  # of the picture's side


def reward(question_type: str, wanted_answer: str, said: str, bins: int = DEFAULT_BINS) -> float:
    """The reward of the text `said` where `wanted_answer` is right, both as the model speaks them.

    UsageError for an unknown question type, and for a wanted answer that shows no place where its
    type asks for one.
    """
    if question_type not in EXACT + PLACES:
        raise UsageError(
            f"no reward for questions of type {question_type!r}: one of {', '.join(EXACT + PLACES)}"
        )
    wanted, answer = parse(wanted_answer, bins), parse(said, bins)
    if question_type in EXACT or wanted.found is False:
        return float(answer == wanted)
    if wanted.malformed or not wanted.found:
        raise UsageError(f"the right answer of a {question_type} question is {wanted_answer!r}")
    if answer.malformed or not answer.found or bool(answer.steps) != bool(wanted.steps):
        return 0.0
    if question_type == "steps":
        return _steps_reward(wanted, answer)
    if question_type == "point":
        return _point_reward(wanted, answer)
    overlaps = matched_overlaps(_boxes(answer), _boxes(wanted))
    return sum(overlaps) / max(len(answer.objects), len(wanted.objects))


def _steps_reward(wanted: Parsed, answer: Parsed) -> float:
    plans = [
        [(step.action, step.relation, step.region.label) for step in said.steps]
        for said in (wanted, answer)
    ]
    if plans[0] != plans[1]:
        return 0.0
    overlaps = [
        iou(step.region.box, want.region.box) if step.region.box and want.region.box else 0.0
        for step, want in zip(answer.steps, wanted.steps, strict=True)
    ]
    return sum(overlaps) / len(overlaps)


def _point_reward(wanted: Parsed, answer: Parsed) -> float:
    right, said = wanted.objects[0].point, answer.objects[0].point
    if right is None or said is None or len(answer.objects) > 1:
        return 0.0
    return max(0.0, 1 - math.dist(right, said) / POINT_RADIUS)


def _boxes(said: Parsed) -> list[Box]:
    return [item.box for item in said.objects if item.box]
