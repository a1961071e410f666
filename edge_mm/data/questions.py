"""Questions about a view, with their one right answer, in the words of the grounding codec.

`ask(view, rng)` draws a question of a random type; each maker returns None where its type does not
fit the view. Answers carry the ids of the objects that their boxes and points show, in order, so
the trainer can teach the region head and the evaluation can judge places.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_mm.data.refer import (
    Noun,
    containment,
    expression,
    find,
    holds,
    nouns_for,
    relation,
    say_relation,
    unclear,
)
from edge_mm.data.scenes import Seen
from edge_mm.data.templates import dress, sentence
from edge_mm.words import COLORS, KINDS, MEANINGS, plural
from edge_mm_runtime.grounding import (
    NONE,
    Region,
    StepRegion,
    format_objects,
    format_point,
    format_steps,
)

MAX_COUNT = 6
LARGER, SMALLER = ("bigger", "larger"), ("smaller",)
DIRECTIONS = ("left of", "right of", "in front of", "behind")


@dataclass(frozen=True, slots=True)
class Question:
    """`type` groups the metrics; `objects` are ids in the order of the answer's places."""

    type: str
    text: str
    answer: str
    objects: tuple[int, ...] = ()


View = Sequence[Seen]
Maker = Callable[[View, random.Random, bool], Question | None]


def _regions(items: Sequence[Seen]) -> list[Region]:
    return [Region(item.label, box=item.box) for item in items]


def _absent(view: View, rng: random.Random) -> Noun | None:
    """A noun for nothing in the view; mostly a hard one: its colour or its kind is there."""
    kinds = sorted({item.kind for item in view if item.kind in MEANINGS})
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
            noun = Noun("object", rng.choice(COLORS))
        if not any(noun.matches(item) for item in view):
            return noun
    return None


def _present(view: View, rng: random.Random) -> Noun | None:
    if not view:
        return None
    noun = rng.choice(nouns_for(rng.choice(view)))
    return None if unclear(noun, view) else noun


def _clear(view: View) -> list[Seen]:
    return [item for item in view if item.visible >= 0.35]


def locate(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not (clear := _clear(view)):
        return None
    target = rng.choice(clear)
    words = expression(target, view, rng)
    if words is None:
        return locate_all(view, rng, held_out)
    return Question("locate", sentence("locate", rng, held_out).format(x=words),
                    format_objects(_regions([target])), (target.id,))


def locate_all(view: View, rng: random.Random, held_out: bool) -> Question | None:
    noun = _present(view, rng)
    if noun is None or not 1 <= len(targets := find(noun, view)) <= MAX_COUNT:
        return None
    text = sentence("locate_all", rng, held_out).format(x=noun.say(rng, plural), x1=noun.say(rng))
    if rng.random() < 0.3 or noun.word == "object" and noun.color is None:
        text = sentence("locate", rng, held_out).format(x=noun.say(rng))
    return Question("locate_all", text, format_objects(_regions(targets)),
                    tuple(item.id for item in targets))


def absent(view: View, rng: random.Random, held_out: bool) -> Question | None:
    noun = _absent(view, rng)
    if noun is None:
        return None
    name = rng.choice(("locate", "locate", "locate", "locate_all", "point"))
    text = sentence(name, rng, held_out)
    many = name == "locate_all"
    return Question("absent", text.format(x=noun.say(rng, plural if many else str),
                                          x1=noun.say(rng)), NONE)


def point(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not (clear := _clear(view)):
        return None
    target = rng.choice(clear)
    words = expression(target, view, rng)
    if words is None:
        return None
    answer = f"<ref>{target.label}</ref>{format_point(target.point)}"
    return Question("point", sentence("point", rng, held_out).format(x=words), answer, (target.id,))


def exist(view: View, rng: random.Random, held_out: bool) -> Question | None:
    there = rng.random() < 0.5
    noun = _present(view, rng) if there else _absent(view, rng)
    if noun is None or noun == Noun("object"):
        return None
    return Question("exist", sentence("exist", rng, held_out).format(x=noun.say(rng)),
                    "yes" if there else "no")


def count(view: View, rng: random.Random, held_out: bool) -> Question | None:
    roll = rng.random()
    if roll < 0.15:
        noun = _absent(view, rng)
    elif roll < 0.3:
        noun = Noun("object")
    else:
        candidates = [n for item in view for n in nouns_for(item)]
        many = [n for n in candidates if len(find(n, view)) > 1]
        noun = rng.choice(many if many and rng.random() < 0.6 else candidates or [Noun("object")])
    if noun is None or unclear(noun, view) or len(find(noun, view)) > 9:
        return None
    return Question("count", sentence("count", rng, held_out).format(x=noun.say(rng, plural)),
                    str(len(find(noun, view))))


def color(view: View, rng: random.Random, held_out: bool) -> Question | None:
    clear = [item for item in _clear(view) if item.color]
    if not clear:
        return None
    target = rng.choice(clear)
    for _ in range(6):
        words = expression(target, view, rng)
        if words and not any(name in words.split(" the ")[0].split() for name in COLORS + (
                "grey", "violet")):
            return Question("color", sentence("color", rng, held_out).format(x=words),
                            target.color or "")
    return None


def _pair(view: View, rng: random.Random) -> tuple[Seen, str, Seen, str] | None:
    """Two clear objects, each with words of its own."""
    clear = _clear(view)
    if len(clear) < 2:
        return None
    a, b = rng.sample(clear, 2)
    a_words, b_words = expression(a, view, rng), expression(b, view, rng)
    return None if a_words is None or b_words is None else (a, a_words, b, b_words)


def compare(view: View, rng: random.Random, held_out: bool) -> Question | None:
    pair = _pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    big, small = (a, b) if a.size_m > b.size_m else (b, a)
    if big.size_m < 1.3 * small.size_m or a.label == b.label:
        return None
    larger = rng.random() < 0.6
    text = sentence("compare", rng, held_out).format(
        c=rng.choice(LARGER if larger else SMALLER), x=a_words, y=b_words)
    return Question("compare", text, (big if larger else small).label)


def relation_yes_no(view: View, rng: random.Random, held_out: bool) -> Question | None:
    pair = _pair(view, rng)
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
        x=a_words, y=b_words, r=say_relation(name, rng))
    return Question("relation", text, "yes" if true else "no")


def relation_where(view: View, rng: random.Random, held_out: bool) -> Question | None:
    pair = _pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    name = relation(a, b)
    if name is None:
        return None
    return Question("relation", sentence("where", rng, held_out).format(x=a_words, y=b_words), name)


def relation_what(view: View, rng: random.Random, held_out: bool) -> Question | None:
    clear = _clear(view)
    if len(clear) < 2:
        return None
    anchor = rng.choice(clear)
    words = expression(anchor, view, rng)
    name = rng.choice((*DIRECTIONS, "in", "on"))
    verdicts = [(item, holds(item, name, anchor)) for item in view if item.id != anchor.id]
    right = [item for item, verdict in verdicts if verdict is not False]
    if words is None or len(right) != 1 or holds(right[0], name, anchor) is not True:
        return None
    if right[0].contained_in == anchor.id:
        name = containment(anchor)
    text = sentence("what", rng, held_out).format(r=say_relation(name, rng), y=words)
    return Question("relation", text, right[0].label)


def identify(view: View, rng: random.Random, held_out: bool) -> Question | None:
    if not (clear := _clear(view)):
        return None
    target = rng.choice(clear)
    place = "".join(format_point(target.point))
    return Question("identify", sentence("identify", rng, held_out).format(p=place), target.label)


def caption(view: View, rng: random.Random, held_out: bool) -> Question | None:
    clear = _clear(view)
    if not 1 <= len(clear) <= 8:
        return None
    labels = [item.label for item in sorted(clear, key=lambda item: item.centre)]
    counted = [(label, labels.count(label)) for label in dict.fromkeys(labels)]
    said = [f"{_article(label)} {label}" if n == 1 else f"{n} {plural(label)}" if label not in KINDS
            else f"{n} {plural(label)}" for label, n in counted]
    text = " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))
    return Question("caption", sentence("caption", rng, held_out), text)


def _article(label: str) -> str:
    return "an" if label[0] in "aeio" else "a"


def steps(view: View, rng: random.Random, held_out: bool) -> Question | None:
    """An instruction -> pick, push, point to, place; absent objects make the answer `<none>`."""
    pair = _pair(view, rng)
    if pair is None:
        return None
    a, a_words, b, b_words = pair
    name = rng.choices(("pick", "push", "place", "place_two"), (2, 1, 6, 1.5))[0]
    roll = rng.random()
    if roll < 0.12 and (noun := _absent(view, rng)):
        words = noun.say(rng)
        a_words, b_words = (words, b_words) if rng.random() < 0.6 else (a_words, words)
        if name != "place":
            name, a_words = "pick", words
        text = sentence(name, rng, held_out).format(
            x=a_words, y=b_words, r=say_relation(rng.choice(DIRECTIONS), rng))
        return Question("absent", text, NONE)
    where = rng.choice((*DIRECTIONS, "next to"))
    if b.kind in ("bowl", "plate", "box", "cup", "mug") and rng.random() < 0.6:
        where = "on" if b.kind in ("plate", "box") else "in"
    moved = [a]
    third_words = None
    if name == "place_two":
        others = [item for item in _clear(view) if item.id not in (a.id, b.id)]
        third = rng.choice(others) if others else None
        third_words = expression(third, view, rng) if third else None
        if third is None or third_words is None:
            name = "place"
        else:
            moved.append(third)
    plan: list[StepRegion] = []
    shown: list[int] = []
    for item in moved:
        action = "push" if name == "push" else "pick"
        plan.append(StepRegion(action, _regions([item])[0]))
        shown.append(item.id)
        if name.startswith("place"):
            plan.append(StepRegion("place", _regions([b])[0], where))
            shown.append(b.id)
    text = sentence(name, rng, held_out).format(
        x=a_words, y=b_words, z=third_words, r=say_relation(where, rng))
    return Question("steps", text, format_steps(plan), tuple(shown))


# Each maker with its share of the questions.
MAKERS: dict[str, tuple[Maker, float]] = {
    "locate": (locate, 6.0), "locate_all": (locate_all, 2.5), "absent": (absent, 3.0),
    "point": (point, 1.5), "exist": (exist, 3.0), "count": (count, 2.5), "color": (color, 2.0),
    "compare": (compare, 1.0), "relation_yes_no": (relation_yes_no, 1.5),
    "relation_where": (relation_where, 1.0), "relation_what": (relation_what, 1.0),
    "identify": (identify, 1.0), "caption": (caption, 0.7), "steps": (steps, 3.5),
}


def ask(view: View, rng: random.Random, held_out: bool = False,
        kinds: Sequence[str] | None = None) -> Question | None:
    """A question of a random type (of `kinds`, if given); None when a few tries fail."""
    names = list(kinds or MAKERS)
    weights = [MAKERS[name][1] for name in names]
    for _ in range(6):
        maker, _share = MAKERS[rng.choices(names, weights)[0]]
        question = maker(view, rng, held_out)
        if question is not None:
            return Question(question.type, dress(question.text, rng), question.answer,
                            question.objects)
    return None
