"""Questions whose answer is a word or a sentence."""

from __future__ import annotations

import random
from collections import Counter

from edge_mm.data.questions.common import (
    DIRECTIONS,
    Question,
    View,
    absent_noun,
    clear_ones,
    clear_pair,
    present_noun,
)
from edge_mm.data.refer import (
    Noun,
    containment,
    expression,
    find,
    holds,
    in_a_row,
    nouns_for,
    relation,
    say_relation,
    unclear,
)
from edge_mm.data.templates import sentence
from edge_mm.words import ANY, COLORS, SYNONYMS, plural
from edge_mm_runtime.grounding import format_point

MAX_ORDER = 5
LARGER, SMALLER = ("bigger", "larger"), ("smaller",)
COLOR_WORDS = {*COLORS, *SYNONYMS["gray"], *SYNONYMS["purple"]}


def exist(view: View, rng: random.Random, held_out: bool) -> Question | None:
    there = rng.random() < 0.5
    noun = present_noun(view, rng) if there else absent_noun(view, rng)
    if noun is None or noun == Noun(ANY):
        return None
    text = sentence("exist", rng, held_out).format(x=noun.say(rng))
    return Question("exist", text, "yes" if there else "no", about=_all(noun, view))


def count(view: View, rng: random.Random, held_out: bool) -> Question | None:
    roll = rng.random()
    if roll < 0.15:
        noun = absent_noun(view, rng)
    elif roll < 0.3:
        noun = Noun(ANY)
    else:
        candidates = [n for item in view for n in nouns_for(item)]
        many = [n for n in candidates if len(find(n, view)) > 1]
        noun = rng.choice(many if many and rng.random() < 0.6 else candidates or [Noun(ANY)])
    if noun is None or unclear(noun, view) or len(find(noun, view)) > 9:
        return None
    text, counted = (
        sentence("count", rng, held_out).format(x=noun.say(rng, plural)),
        _all(noun, view),
    )
    return Question("count", text, str(len(counted)), about=counted)


def color(view: View, rng: random.Random, held_out: bool) -> Question | None:
    clear = [item for item in clear_ones(view) if item.color]
    if not clear:
        return None
    target = rng.choice(clear)
    for _ in range(6):
        words = expression(target, view, rng)
        if words and COLOR_WORDS.isdisjoint(words.split(" the ")[0].split()):
            text = sentence("color", rng, held_out).format(x=words)
            return Question("color", text, target.color or "", about=(target.id,))
    return None


def compare(view: View, rng: random.Random, held_out: bool) -> Question | None:
    pair = clear_pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    big, small = (a, b) if a.size_m > b.size_m else (b, a)
    if big.size_m < 1.3 * small.size_m or a.label == b.label:
        return None
    larger = rng.random() < 0.6
    text = sentence("compare", rng, held_out).format(
        c=rng.choice(LARGER if larger else SMALLER), x=a_words, y=b_words
    )
    right = big if larger else small
    return Question("compare", text, right.label, about=(right.id,))


def relation_yes_no(view: View, rng: random.Random, held_out: bool) -> Question | None:
    pair = clear_pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    inside = [item for item in view if item.contained_in is not None]
    name = rng.choice(DIRECTIONS if not inside or rng.random() < 0.7 else ("in", "on"))
    true = holds(a, name, b)
    if name in ("in", "on") and a.contained_in == b.id:
        name = containment(b)
    if true is None:
        return None
    text = sentence("relation", rng, held_out).format(
        x=a_words, y=b_words, r=say_relation(name, rng)
    )
    return Question("relation", text, "yes" if true else "no")


def relation_where(view: View, rng: random.Random, held_out: bool) -> Question | None:
    pair = clear_pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    name = relation(a, b)
    if name is None:
        return None
    return Question("relation", sentence("where", rng, held_out).format(x=a_words, y=b_words), name)


def relation_what(view: View, rng: random.Random, held_out: bool) -> Question | None:
    clear = clear_ones(view)
    if len(clear) < 2:
        return None
    anchor = rng.choice(clear)
    words = expression(anchor, view, rng, plain=True)
    name = rng.choice((*DIRECTIONS, "in", "on"))
    verdicts = [(item, holds(item, name, anchor)) for item in view if item.id != anchor.id]
    possible = [(item, verdict) for item, verdict in verdicts if verdict is not False]
    if words is None or len(possible) != 1 or possible[0][1] is not True:
        return None
    right = possible[0][0]
    if right.contained_in == anchor.id:
        name = containment(anchor)
    text = sentence("what", rng, held_out).format(r=say_relation(name, rng), y=words)
    return Question("relation", text, right.label, about=(right.id,))


def identify(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not (clear := clear_ones(view)):
        return None
    target = rng.choice(clear)
    place = format_point(target.point)
    text = sentence("identify", rng, held_out).format(p=place)
    return Question("identify", text, target.label, about=(target.id,))


def caption(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not 1 <= len(clear_ones(view)) <= 8:
        return None
    return Question("caption", sentence("caption", rng, held_out), described(view))


def described(view: View) -> str:
    """All that is clearly seen, from left to right."""
    labels = [item.label for item in sorted(clear_ones(view), key=lambda item: item.centre)]
    said = [
        f"{_article(label)} {label}" if number == 1 else f"{number} {plural(label)}"
        for label, number in Counter(labels).items()
    ]
    return " and ".join(filter(None, (", ".join(said[:-1]), *said[-1:]))) or "nothing"


def order(view: View, rng: random.Random, held_out: bool) -> Question | None:
    """Reading order: things of one noun by name, from one side to the other."""
    noun = Noun(ANY) if rng.random() < 0.3 else present_noun(view, rng)
    if noun is None or unclear(noun, view):
        return None
    row = find(noun, view)
    if not 2 <= len(row) <= MAX_ORDER or not in_a_row(row):
        return None
    sides = rng.sample(("left", "right"), 2)
    text = sentence("order", rng, held_out).format(x=noun.say(rng, plural), a=sides[0], b=sides[1])
    labels = [item.label for item in (row if sides[0] == "left" else row[::-1])]
    return Question("order", text, ", ".join(labels), about=tuple(item.id for item in row))


def _all(noun: Noun, view: View) -> tuple[int, ...]:
    return tuple(item.id for item in find(noun, view))


def _article(label: str) -> str:
    return "an" if label[0] in "aeio" else "a"
