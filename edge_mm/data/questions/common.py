"""What questions are made of: the question itself, and the nouns that makers draw."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_mm.data.refer import CLEARLY_SEEN, Noun, expression, nouns_for, unclear
from edge_mm.data.scenes import Seen
from edge_mm.words import ANY, COLORS, KINDS
from edge_mm_runtime.grounding import Region

DIRECTIONS = ("left of", "right of", "in front of", "behind")


@dataclass(frozen=True, slots=True)
class Question:
    """`type` groups the metrics; `objects` are ids in the order of the answer's places.

    `about` are the ids of all that the answer speaks of, (): of something that is not there; None:
    of a relation, of the whole picture.
    """

    type: str
    text: str
    answer: str
    objects: tuple[int, ...] = ()
    about: tuple[int, ...] | None = None


View = Sequence[Seen]
Maker = Callable[[View, random.Random, bool], Question | None]


def region(item: Seen) -> Region:
    """An object as an answer names and boxes it."""
    return Region(item.label, box=item.box)


def absent_noun(view: View, rng: random.Random) -> Noun | None:
    """A noun for nothing in the view; mostly a hard one: its colour or its kind is there."""
    kinds = sorted({item.kind for item in view})
    colors = sorted({item.color for item in view if item.color})
    for _ in range(8):
        hard = rng.random()
        if hard < 0.4 and kinds:
            noun = Noun(rng.choice(kinds), rng.choice(COLORS))
        elif hard < 0.7 and colors:
            noun = Noun(rng.choice(KINDS), rng.choice(colors))
        elif hard < 0.9:
            noun = Noun(rng.choice((*KINDS, "fruit", "tool")))
        else:
            noun = Noun(ANY, rng.choice(COLORS))
        if not any(noun.matches(item) for item in view) and not unclear(noun, view):
            return noun
    return None


def present_noun(view: View, rng: random.Random) -> Noun | None:
    if not view:
        return None
    noun = rng.choice(nouns_for(rng.choice(view)))
    return None if unclear(noun, view) else noun


def clear_ones(view: View) -> list[Seen]:
    return [item for item in view if item.visible >= CLEARLY_SEEN]


def clear_pair(view: View, rng: random.Random) -> tuple[Seen, str, Seen, str] | None:
    """Two clear objects, each with plain words of its own."""
    clear = clear_ones(view)
    if len(clear) < 2:
        return None
    a, b = rng.sample(clear, 2)
    a_words, b_words = (expression(item, view, rng, plain=True) for item in (a, b))
    return None if a_words is None or b_words is None else (a, a_words, b, b_words)
