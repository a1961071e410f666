"""Questions about a view, with their one right answer, in the words of the grounding codec.

`ask(view, rng)` draws a question of a random type; each maker returns None where its type does not
fit the view. Answers carry the ids of the objects that their boxes and points show, in order, so
the trainer can teach the region head and the evaluation can judge places.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from edge_mm.data.questions.common import Maker, Question, View
from edge_mm.data.questions.places import absent, locate, locate_all, point
from edge_mm.data.questions.steps import steps
from edge_mm.data.questions.words import (
    caption,
    color,
    compare,
    count,
    exist,
    identify,
    order,
    relation_what,
    relation_where,
    relation_yes_no,
)
from edge_mm.data.templates import dress

__all__ = ["MAKERS", "Question", "ask"]

# Each maker with its share of the questions.
MAKERS: dict[str, tuple[Maker, float]] = {
    "locate": (locate, 5.0),
    "locate_all": (locate_all, 2.0),
    "absent": (absent, 3.0),
    "point": (point, 1.5),
    "exist": (exist, 3.0),
    "count": (count, 3.0),
    "color": (color, 2.5),
    "compare": (compare, 1.5),
    "relation_yes_no": (relation_yes_no, 2.5),
    "relation_where": (relation_where, 2.0),
    "relation_what": (relation_what, 2.0),
    "identify": (identify, 1.0),
    "caption": (caption, 0.5),
    "order": (order, 1.5),
    "steps": (steps, 3.0),
}


def ask(
    view: View, rng: random.Random, held_out: bool = False, kinds: Sequence[str] | None = None
) -> Question | None:
    """A question of a random type (of `kinds`, if given); None when a few tries fail."""
    names = list(kinds or MAKERS)
    weights = [MAKERS[name][1] for name in names]
    for _ in range(6):
        maker, _ = MAKERS[rng.choices(names, weights)[0]]
        question = maker(view, rng, held_out)
        if question is not None:
            return replace(question, text=dress(question.text, rng))
    return None
