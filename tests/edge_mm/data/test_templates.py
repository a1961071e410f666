"""The sentences fit their slots, mean one question type each, and some are never trained on."""

from __future__ import annotations

import random
from string import Formatter

import pytest

from edge_mm.data.sentences import SENTENCES
from edge_mm.data.templates import POLITE, dress, sentence, split

SLOTS = {
    **{key: {"x"} for key in ("locate", "point", "exist", "count", "color", "pick", "push")},
    "compare": {"c", "x", "y"},
    "relation": {"x", "r", "y"},
    "where": {"x", "y"},
    "what": {"r", "y"},
    "identify": {"p"},
    "caption": set(),
    "order": {"x", "a", "b"},
    "place": {"x", "r", "y"},
    "place_two": {"x", "z", "r", "y"},
}
# Both are answered with boxes: "find the {x}" asks for one cup or for all cups.
SAME_ANSWER = {"locate_all": "locate"}
# What these ended with when the last two of each list were the held-out ones.
ALWAYS_HELD_OUT = {
    "locate": {"where can i find the {x}?", "put a bounding box on the {x}"},
    "point": {"pinpoint the {x}", "where would you pick up the {x}?"},
    "exist": {"have you spotted a {x}?", "is the {x} present?"},
    "pick": {"fetch the {x}", "collect the {x}"},
}


def slots(text: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(text) if name is not None]


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_sentences_have_the_slots_of_their_type(name: str) -> None:
    for text in SENTENCES[name]:
        if name == "locate_all":
            assert slots(text) in (["x"], ["x1"]), text
        else:
            assert sorted(slots(text)) == sorted(SLOTS[name]), text
        assert text.isascii() and text == text.lower() == text.strip() and "  " not in text, text


def test_a_sentence_asks_for_one_type_of_answer() -> None:
    seen: dict[str, str] = {}
    for name, texts in SENTENCES.items():
        assert len(set(texts)) == len(texts), name
        for text in texts:
            words = text.rstrip("?")  # people leave the mark out
            answer = SAME_ANSWER.get(name, name)
            assert seen.setdefault(words, answer) == answer, text


@pytest.mark.parametrize("name", sorted(SENTENCES))
def test_held_out_sentences_are_never_trained_on(name: str) -> None:
    training, held_out = split(name)
    assert len(held_out) >= 3
    assert all(set(split(other)[0]).isdisjoint(held_out) for other in SENTENCES)
    assert sorted((*training, *held_out)) == sorted(SENTENCES[name])
    assert ALWAYS_HELD_OUT.get(name, set()) <= set(held_out)
    for is_held_out, texts in ((False, training), (True, held_out)):
        assert {sentence(name, random.Random(s), is_held_out) for s in range(900)} <= set(texts)


def test_a_sentence_that_asks_is_not_made_an_order() -> None:
    assert all(slots(polite) == ["s"] for polite in POLITE)
    for seed in range(300):
        words = dress("is there a cup? show me", random.Random(seed)).lower()
        assert words.startswith("i") and "robot" not in words and "please" not in words
