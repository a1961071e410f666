"""Instructions: the answer is an ordered list of actions, each with its place."""

from __future__ import annotations

import random

from edge_mm.data.questions.common import (
    DIRECTIONS,
    Question,
    View,
    absent_noun,
    clear_ones,
    clear_pair,
    region,
)
from edge_mm.data.refer import expression, say_relation
from edge_mm.data.templates import sentence
from edge_mm_runtime.grounding import NONE, StepRegion, format_steps


def steps(view: View, rng: random.Random, held_out: bool) -> Question | None:
    """An instruction -> pick, push, point to, place; absent objects make the answer `<none>`."""
    pair = clear_pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    name = rng.choices(("pick", "push", "place", "place_two"), (2, 1, 6, 1.5))[0]
    roll = rng.random()
    if roll < 0.12 and (noun := absent_noun(view, rng)):
        words = noun.say(rng)
        a_words, b_words = (words, b_words) if rng.random() < 0.6 else (a_words, words)
        if name != "place":
            name, a_words = "pick", words
        text = sentence(name, rng, held_out).format(
            x=a_words, y=b_words, r=say_relation(rng.choice(DIRECTIONS), rng)
        )
        return Question("absent", text, NONE, about=())
    where = rng.choice((*DIRECTIONS, "next to"))
    if b.kind in ("bowl", "plate", "box", "cup", "mug") and rng.random() < 0.6:
        where = "on" if b.kind in ("plate", "box") else "in"
    moved = [a]
    third_words = None
    if name == "place_two":
        others = [item for item in clear_ones(view) if item.id not in (a.id, b.id)]
        third = rng.choice(others) if others else None
        third_words = expression(third, view, rng, plain=True) if third else None
        if third is None or third_words is None:
            name = "place"
        else:
            moved.append(third)
    plan: list[StepRegion] = []
    shown: list[int] = []
    for item in moved:
        action = "push" if name == "push" else "pick"
        plan.append(StepRegion(action, region(item)))
        shown.append(item.id)
        if name.startswith("place"):
            plan.append(StepRegion("place", region(b), where))
            shown.append(b.id)
    text = sentence(name, rng, held_out).format(
        x=a_words, y=b_words, z=third_words, r=say_relation(where, rng)
    )
    return Question("steps", text, format_steps(plan), tuple(shown), (a.id,))
