"""Rejected answers: what a model that does not look would say to the same question.

They are the other half of preference tuning: a thing that is not there gets a box, one that is
there is denied, a colour, a number or a direction is another one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from edge_mm.data.questions.common import DIRECTIONS, Question, region
from edge_mm.data.scenes import Seen
from edge_mm.objectives.negatives import swap_attributes
from edge_mm.words import COLORS
from edge_mm_runtime.grounding import NONE, format_objects


def rejected(question: Question, view: Sequence[Seen], rng: random.Random) -> str | None:
    """A wrong answer of the same form, or None where there is no telling one."""
    answer = question.answer
    if question.type == "absent":  # the typical hallucination
        return format_objects([region(rng.choice(view))]) if view else None
    if question.type in ("locate", "locate_all", "point", "steps"):
        others = [item for item in view if item.id not in question.objects]
        if question.type == "locate" and others and rng.random() < 0.5:
            return format_objects([region(rng.choice(others))])
        return NONE
    if question.type == "count":
        return str(max(0, int(answer) + rng.choice((-1, 1))) if answer != "0" else 1)
    if question.type == "caption":
        return swap_attributes(answer)
    for options in (("yes", "no"), COLORS, DIRECTIONS, sorted({item.label for item in view})):
        if answer in options:
            wrong = [option for option in options if option != answer]
            return rng.choice(wrong) if wrong else None
    return None
