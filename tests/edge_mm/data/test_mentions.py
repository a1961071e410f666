"""Mentions: which words of a question name which objects."""

from __future__ import annotations

from collections import defaultdict

from edge_mm.data.mentions import mentions
from edge_mm.data.sentences import SENTENCES
from tests.edge_mm.data.test_questions import item

VIEW = [item(1, "cup", "red", 0.1), item(2, "mug", "red", 0.4), item(3, "box", "gray", 0.7)]


def named(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(text[: m.end].split()[-1], m.objects) for m in mentions(text, VIEW)]


def test_every_noun_phrase_with_its_objects() -> None:
    assert named("Is the red cup left of the Grey Package?") == [
        ("cup", (1, 2)),
        ("Package", (3,)),
    ]
    assert named("count the coffee mugs and the blue things") == [("mugs", (2,)), ("things", ())]
    assert named("the secnod box from the left") == [("box", (3,))]
    assert named("fnid the red cpu") == []


def test_sentences_name_nothing_themselves() -> None:
    for sentences in SENTENCES.values():
        for sentence in sentences:
            slots = {"c": "bigger", "r": "behind", "a": "left", "b": "right"}
            text = sentence.format_map(defaultdict(lambda: "-", slots))
            assert mentions(text, VIEW) == [], sentence
