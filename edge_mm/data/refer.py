"""Referring expressions: words for an object, and the objects that some words mean.

An expression is checked against the whole view before it is used, so a question has one right
answer. "In front of" and "behind" compare where objects stand in the picture: lower is nearer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge_mm.data.scenes import Seen
from edge_mm.words import ANY, MEANINGS, SYNONYMS

MARGIN = 0.06  # of the frame: closer than this, two objects are not clearly apart
CLEARLY_SEEN = 0.35  # below this visible share nothing is asked that depends on the object
SIZE_RATIO = 1.25  # a size is compared when one object is at least this much larger
ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True, slots=True)
class Noun:
    """A kind word with an optional colour, e.g. red cup, fruit, blue object."""

    word: str
    color: str | None = None

    def matches(self, item: Seen) -> bool:
        called = self.word in (ANY, item.kind) or item.kind in MEANINGS.get(self.word, ())
        return called and self.color in (None, item.color)

    def say(self, rng: random.Random, number: Callable[[str], str] = str) -> str:
        """The words, with a synonym now and then; `number` makes a plural of the kind word."""
        word, color = vary(self.word, rng), self.color
        return f"{vary(color, rng)} {number(word)}" if color else number(word)


def vary(word: str, rng: random.Random) -> str:
    options = SYNONYMS.get(word)
    return rng.choice(options) if options and rng.random() < 0.25 else word


def find(noun: Noun, view: Sequence[Seen]) -> list[Seen]:
    """The objects that a noun means, from left to right."""
    return sorted((item for item in view if noun.matches(item)), key=lambda item: item.centre)


def in_a_row(row: Sequence[Seen]) -> bool:
    """Whether objects, sorted from left to right, are clearly apart that way."""
    return all(b.centre[0] - a.centre[0] > 0.7 * MARGIN for a, b in pairwise(row))


def unclear(noun: Noun, view: Sequence[Seen]) -> bool:
    """Whether something hardly visible, or of several colours, could be meant too."""
    return any(
        (item.visible < CLEARLY_SEEN and noun.matches(item))
        or (noun.color and item.color is None and Noun(noun.word).matches(item))
        for item in view
    )


def nouns_for(item: Seen) -> list[Noun]:
    """All that an object may be called, the most telling first."""
    words = [
        item.kind,
        *(word for word, kinds in MEANINGS.items() if item.kind in kinds and word != item.kind),
    ]
    with_color = dict.fromkeys((*words, ANY)) if item.color else ()
    return [Noun(word, item.color) for word in with_color] + [Noun(word) for word in words]


def relation(a: Seen, b: Seen) -> str | None:
    """Where `a` clearly is, seen from `b`; None when it is not clear."""
    if a.contained_in == b.id or b.contained_in == a.id:
        return None
    dx, dy = a.centre[0] - b.centre[0], a.base[1] - b.base[1]
    half_widths = (a.box[2] - a.box[0] + b.box[2] - b.box[0]) / 2
    if abs(dx) > max(MARGIN, 0.5 * half_widths) and abs(dx) > 1.3 * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) > MARGIN and abs(dy) > 1.3 * abs(dx):
        return "in front of" if dy > 0 else "behind"
    return None


def holds(a: Seen, name: str, b: Seen) -> bool | None:
    """Whether `a` is `name` of `b`; None when it is a close call."""
    if a.contained_in == b.id:
        return True if name in ("in", "on") else None
    if name in ("in", "on"):
        return False
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "in front of": (1, 1), "behind": (1, -1)}[
        name
    ]
    distance = sign * (a.centre[0] - b.centre[0] if axis == 0 else a.base[1] - b.base[1])
    reach = (a.box[2] - a.box[0] + b.box[2] - b.box[0]) / 4 if axis == 0 else 0.0
    clear = max(MARGIN, reach)
    return None if abs(distance) < clear else distance > 0


def expression(
    target: Seen, view: Sequence[Seen], rng: random.Random, plain: bool = False
) -> str | None:
    """Words (without an article) that mean `target` and nothing else in the view.

    `plain` is for questions that name two things: a noun if it will do, else an order or a size,
    and never "left of the ...", for nobody could tell what belongs to what.
    """
    makers = [_by_noun, _by_noun, _by_noun, _by_order, _by_size, _by_relation, _by_relation]
    rng.shuffle(makers)
    if plain:
        makers = [_by_noun, *(maker for maker in makers if maker in (_by_order, _by_size))]
    for maker in dict.fromkeys(makers):
        words = maker(target, view, rng)
        if words is not None:
            return words
    return None


def _by_noun(target: Seen, view: Sequence[Seen], rng: random.Random) -> str | None:
    unique = [
        noun for noun in nouns_for(target) if not unclear(noun, view) and len(find(noun, view)) == 1
    ]
    if not unique:
        return None
    return rng.choice(unique[:1] * 2 + unique).say(rng)


def _by_relation(target: Seen, view: Sequence[Seen], rng: random.Random) -> str | None:
    anchors = [item for item in view if item.id != target.id]
    rng.shuffle(anchors)
    for anchor in anchors:
        name = relation(target, anchor) if target.contained_in != anchor.id else containment(anchor)
        anchor_words = _by_noun(anchor, view, rng)
        if name is None or anchor_words is None:
            continue
        for noun in rng.sample(nouns_for(target)[:3], min(3, len(nouns_for(target)))):
            others = [item for item in find(noun, view) if item.id not in (target.id, anchor.id)]
            if noun.matches(anchor) and noun.color is None:
                continue
            if not unclear(noun, view) and all(holds(o, name, anchor) is False for o in others):
                return f"{noun.say(rng)} {say_relation(name, rng)} the {anchor_words}"
    return None


def containment(anchor: Seen) -> str:
    return "on" if anchor.kind == "plate" else "in"


def say_relation(name: str, rng: random.Random) -> str:
    if name in ("left of", "right of"):
        return rng.choice((f"to the {name}", name, f"on the {name.split()[0]} side of"))
    if name == "in":
        return rng.choice(("in", "inside"))
    return name


def _by_order(target: Seen, view: Sequence[Seen], rng: random.Random) -> str | None:
    for noun in rng.sample(nouns_for(target), len(nouns_for(target))):
        row = find(noun, view)
        if not 2 <= len(row) <= 5 or not in_a_row(row) or unclear(noun, view):
            continue
        index, from_right = row.index(target), rng.random() < 0.5
        place = len(row) - 1 - index if from_right else index
        side = "right" if from_right else "left"
        if place == 0 and rng.random() < 0.6:
            return rng.choice((f"{side}most {noun.say(rng)}", f"{noun.say(rng)} on the far {side}"))
        if len(row) == 3 and index == 1 and rng.random() < 0.5:
            return (
                f"{noun.say(rng)} in the middle"
                if rng.random() < 0.4
                else (f"middle {noun.say(rng)}")
            )
        return f"{ORDINALS[place]} {noun.say(rng)} from the {side}"
    return None


def _by_size(target: Seen, view: Sequence[Seen], rng: random.Random) -> str | None:
    for noun in rng.sample(nouns_for(target), len(nouns_for(target))):
        others = [item for item in find(noun, view) if item.id != target.id]
        if not others or unclear(noun, view):
            continue
        if all(target.size_m > SIZE_RATIO * item.size_m for item in others):
            words = ("larger", "bigger") if len(others) == 1 else ("largest", "biggest")
        elif all(item.size_m > SIZE_RATIO * target.size_m for item in others):
            words = ("smaller",) if len(others) == 1 else ("smallest",)
        else:
            continue
        return f"{rng.choice(words)} {noun.say(rng)}"
    return None
