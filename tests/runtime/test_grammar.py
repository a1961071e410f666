"""Grammars: what each mode lets through, with a byte-level BPE tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grammar import MODES, Grammars
from edge_mm_runtime.vocabulary import open_tokenizer

BOX = "<box><loc001><loc002><loc003><loc127></box>"
POINT = "<point><loc000><loc002></point>"
EXAMPLES = {
    "free": [
        "yes",
        "3",
        "a red cup on the table, left of it a bowl; pick one",
        "pick",
        "place in ",
    ],
    "objects": [f"<ref>red cup</ref>{BOX}", f"<ref>a</ref>{BOX}<ref>b c</ref>{BOX}"],
    "points": [f"<ref>red cup</ref>{POINT}", f"<ref>ä</ref>{POINT}<ref>b</ref>{POINT}"],
    "steps": [
        f"pick <ref>red cup</ref>{BOX}",
        f"pick <ref>cup</ref>{BOX}; place in front of <ref>bowl</ref>{POINT}",
        f"push behind <ref>cup</ref>{BOX}; point to <ref>a</ref>{BOX}; place <ref>b</ref>{BOX}",
    ],
    "none": ["<none>"],
}
WRONG = [
    "<ref>red cup</ref>",
    f"<ref></ref>{BOX}",
    f"<ref> cup</ref>{BOX}",
    "<ref>cup</ref><box><loc001><loc002><loc003></box>",
    "<ref>cup</ref><point><loc001><loc002><loc003></point>",
    f"<ref>cup</ref>{BOX}<none>",
    "<none><none>",
    f"pick behind <ref>cup</ref>{BOX}",
    f"take <ref>cup</ref>{BOX}",
    f"yes <ref>cup</ref>{BOX}",
    f"pick <ref>cup</ref>{BOX};",
    f"<ref>cup</ref>{BOX} and more",
    "<user>hello",
    "two\nlines",
    "a < b",
    " space first",
    "",
]
TAKES = {
    "auto": ("free", "objects", "points", "steps", "none"),
    "locate": ("objects", "none"),
    "point": ("points", "none"),
    "answer": ("free",),
    "caption": ("free",),
    "steps": ("steps", "none"),
}


@pytest.fixture(scope="module")
def grammars(tiny_bundle: Path) -> Grammars:
    return Grammars(*open_tokenizer(load_bundle(tiny_bundle, verify="size")))


def takes(grammars: Grammars, tokenizer: Tokenizer, mode: str, text: str) -> bool:
    """Whether the text, then the end, goes through token by token."""
    constraint = grammars.start(mode, 448)  # type: ignore[arg-type]
    for token in tokenizer.encode(text + "<eos>", add_special_tokens=False).ids:
        if not constraint.allowed()[token]:
            return False
        if token == tokenizer.token_to_id("<eos>"):
            return True
        constraint.accept(token)
    raise AssertionError("the text has no end")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_each_mode_takes_its_own(
    grammars: Grammars, tokenizer: Tokenizer, mode: str, kind: str
) -> None:
    for text in EXAMPLES[kind]:
        assert takes(grammars, tokenizer, mode, text) is (kind in TAKES[mode]), text


@pytest.mark.parametrize("text", WRONG)
def test_no_mode_takes_what_cannot_be_read(
    grammars: Grammars, tokenizer: Tokenizer, text: str
) -> None:
    assert not any(takes(grammars, tokenizer, mode, text) for mode in MODES)


def test_the_only_way_on_is_known(grammars: Grammars, tokenizer: Tokenizer) -> None:
    constraint = grammars.start("locate", 448)
    for token in tokenizer.encode("<ref>red cup</ref>", add_special_tokens=False).ids:
        constraint.accept(token)
    [only] = constraint.allowed().nonzero()[0]
    assert tokenizer.id_to_token(int(only)) == "<box>"


def test_one_answer_does_not_disturb_the_next(grammars: Grammars) -> None:
    first, fresh = grammars.start("locate", 448), grammars.start("locate", 448).allowed()
    first.accept(int(first.allowed().nonzero()[0][0]))
    assert (grammars.start("locate", 448).allowed() == fresh).all()


def test_a_wider_head_than_the_tokenizer_is_masked(
    grammars: Grammars, tokenizer: Tokenizer
) -> None:
    mask = grammars.start("auto", 1000).allowed()
    assert mask.shape == (1000,)
    assert not mask[tokenizer.get_vocab_size() :].any()


def test_an_unknown_mode_is_refused(grammars: Grammars) -> None:
    with pytest.raises(UsageError, match="unknown mode 'dance': one of auto, locate, point"):
        grammars.start("dance", 448)  # type: ignore[arg-type]
