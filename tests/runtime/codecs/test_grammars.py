"""The grammars of other codecs: what ended by itself can be read, and what is said goes through."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm_runtime.answer import Mode
from edge_mm_runtime.codecs import CODECS, Codec
from edge_mm_runtime.errors import BundleError, UsageError
from edge_mm_runtime.grammar import Grammars
from edge_mm_runtime.grounding import Region
from edge_mm_runtime.vocabulary import Vocabulary

from .conftest import Build

SIZE = (640, 480)
MODES: dict[str, Mode] = {"box": "locate", "point": "point"}
CASES = [
    (name, special, kind)
    for name, codec in CODECS.items()
    if name not in ("edge_mm", "none")
    for kind in codec.speaks
    for special in ((True, False) if codec.tags and name != "molmo" else (True,))
]


def objects_of(kind: str) -> list[Region]:
    if kind == "point":
        return [Region("red cup", point=(0.25, 0.5))]
    return [Region("red cup", (0.1, 0.2, 0.5, 0.7)), Region("ä 2nd bowl", (0.5, 0.1, 0.9, 1.0))]


def takes(grammars: Grammars, vocabulary: Vocabulary, mode: Mode, ids: list[int]) -> bool:
    """Whether the ids, then the end, go through."""
    constraint = grammars.start(mode, vocabulary.size)
    for token in [*ids, *vocabulary.stop]:
        if not constraint.allowed()[token]:
            return False
        if token not in vocabulary.stop:
            constraint.accept(token)
    return True


def walk(
    grammars: Grammars, vocabulary: Vocabulary, mode: Mode, likely: list[int], seed: int
) -> list[int]:
    """Random ids that the grammar allows, mostly of `likely`, up to where it may end."""
    draw = np.random.default_rng(seed)
    constraint = grammars.start(mode, vocabulary.size)
    ids: list[int] = []
    while len(ids) < 300:
        allowed = np.flatnonzero(constraint.allowed())
        if ids and np.isin(vocabulary.stop, allowed).any():
            return ids
        near = np.intersect1d(allowed, likely)
        options = near if len(near) and draw.random() < 0.9 else allowed
        options = options[~np.isin(options, vocabulary.stop)]
        token = int(draw.choice(options))
        constraint.accept(token)
        ids.append(token)
    raise AssertionError("no end")


def text_of(codec: Codec, kind: str) -> str:
    return codec.format(objects_of(kind), *SIZE)


@pytest.mark.parametrize(("name", "special", "kind"), CASES)
def test_what_ended_by_itself_can_be_read(
    name: str, special: bool, kind: str, spell: Build
) -> None:
    tokenizer, vocabulary = spell(name, special)
    grammars, codec, mode = Grammars(tokenizer, vocabulary), CODECS[name], MODES[kind]
    likely = tokenizer.encode(text_of(codec, kind), add_special_tokens=False).ids
    located = 0
    for seed in range(12):
        ids = walk(grammars, vocabulary, mode, likely, seed)
        text = tokenizer.decode(ids, skip_special_tokens=False)
        parsed = codec.parse(text, *SIZE)
        assert not parsed.malformed and parsed.found is not None, text
        assert all((item.box is not None) == (kind == "box") for item in parsed.objects), text
        located += parsed.found
    assert located


@pytest.mark.parametrize(("name", "special", "kind"), CASES)
def test_what_is_said_goes_through_and_words_do_not(
    name: str, special: bool, kind: str, spell: Build
) -> None:
    tokenizer, vocabulary = spell(name, special)
    grammars, codec, mode = Grammars(tokenizer, vocabulary), CODECS[name], MODES[kind]
    said = text_of(codec, kind)

    def goes(text: str) -> bool:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        return takes(grammars, vocabulary, mode, ids)

    assert goes(said) and goes(codec.format([], *SIZE))
    assert goes("") is (name == "paligemma")
    for wrong in ("a cup", said[:-4], said + " and more<", "none none", said + "<image>"):
        assert not goes(wrong), wrong


def test_ids_without_a_choice_are_known_ahead(spell: Build) -> None:
    tokenizer, vocabulary = spell("qwen3_vl", True)
    constraint = Grammars(tokenizer, vocabulary).start("locate", vocabulary.size)
    assert tokenizer.decode(constraint.forced()) == "```json\n["  # type: ignore[union-attr]
    for token in constraint.forced():  # type: ignore[union-attr]
        constraint.accept(token)


@pytest.mark.parametrize("special", [True, False])
def test_free_text_has_any_sign_but_no_special_token(spell: Build, special: bool) -> None:
    tokenizer, vocabulary = spell("internvl", special)
    grammars = Grammars(tokenizer, vocabulary)
    said = tokenizer.encode("a < b\n<cup>", add_special_tokens=False).ids
    tagged = tokenizer.encode("<ref>a</ref>", add_special_tokens=False).ids
    for mode in ("auto", "answer", "caption"):
        assert takes(grammars, vocabulary, mode, said)
        assert takes(grammars, vocabulary, mode, tagged) is (mode == "auto")
        assert takes(grammars, vocabulary, mode, []) is (mode == "auto")
        assert not takes(grammars, vocabulary, mode, [vocabulary.image])
    wide = grammars.start("auto", 1000).allowed()
    assert wide.shape == (1000,) and not wide[vocabulary.size :].any()


@pytest.mark.parametrize(
    ("name", "mode", "named"),
    [
        ("none", "locate", "mode locate: this model was not taught to name places: ask in "),
        ("none", "steps", "mode steps: this model was not taught to name places"),
        ("qwen3_vl", "steps", "codec qwen3_vl has no words for steps, only for box and point"),
        ("paligemma", "point", "has no words for point, only for box: ask in mode auto, locate"),
        ("molmo", "locate", "mode locate: codec molmo has no words for box, only for point"),
        ("molmo", "dance", "unknown mode 'dance'"),
    ],
)  # fmt: skip
def test_a_mode_without_words_is_refused(name: str, mode: Mode, named: str, spell: Build) -> None:
    grammars = Grammars(*spell(name, True))
    with pytest.raises(UsageError, match=named):
        grammars.start(mode, 400)


def test_a_tokenizer_that_no_grammar_can_read_is_named(spell: Build) -> None:
    class Odd:
        def to_str(self) -> str:
            return "{}"

    _, vocabulary = spell("qwen3_vl", True)
    grammars = Grammars(Odd(), vocabulary)  # type: ignore[arg-type]
    grammars.start("answer", vocabulary.size)  # free text needs none
    with pytest.raises(BundleError, match=r"cannot use this tokenizer: .* ask in mode auto"):
        grammars.start("locate", vocabulary.size)
