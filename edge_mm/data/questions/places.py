"""Questions whose answer is a place: locate, locate all, point, and what is not there."""

from __future__ import annotations

import random

from edge_mm.data.questions.common import (
    Question,
    View,
    absent_noun,
    clear_ones,
    present_noun,
    region,
)
from edge_mm.data.refer import expression, find
from edge_mm.data.templates import sentence
from edge_mm.words import ANY, plural
from edge_mm_runtime.grounding import NONE, format_objects, format_point

MAX_COUNT = 6


def locate(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not (clear := clear_ones(view)):
        return None
    target = rng.choice(clear)
    words = expression(target, view, rng)
    if words is None:
        return locate_all(view, rng, held_out)
    return Question(
        "locate",
        sentence("locate", rng, held_out).format(x=words),
        format_objects([region(target)]),
        (target.id,),
        (target.id,),
    )


def locate_all(view: View, rng: random.Random, held_out: bool) -> Question | None:
    noun = present_noun(view, rng)
    if noun is None or not 1 <= len(targets := find(noun, view)) <= MAX_COUNT:
        return None
    text = sentence("locate_all", rng, held_out).format(x=noun.say(rng, plural), x1=noun.say(rng))
    if rng.random() < 0.3 or (noun.word == ANY and noun.color is None):
        text = sentence("locate", rng, held_out).format(x=noun.say(rng))
    shown = tuple(item.id for item in targets)
    return Question(
        "locate_all", text, format_objects([region(item) for item in targets]), shown, shown
    )


def absent(view: View, rng: random.Random, held_out: bool) -> Question | None:
    noun = absent_noun(view, rng)
    if noun is None:
        return None
    name = rng.choice(("locate", "locate", "locate", "locate_all", "point"))
    text = sentence(name, rng, held_out)
    many = name == "locate_all"
    text = text.format(x=noun.say(rng, plural if many else str), x1=noun.say(rng))
    return Question("absent", text, NONE, about=())


def point(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not (clear := clear_ones(view)):
        return None
    target = rng.choice(clear)
    words = expression(target, view, rng)
    if words is None:
        return None
    answer = f"<ref>{target.label}</ref>{format_point(target.point)}"
    text, shown = sentence("point", rng, held_out).format(x=words), (target.id,)
    return Question("point", text, answer, shown, shown)
