"""Swapped questions have the answers that they say, and only all of them right count."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edge_mm.data.refer import holds
from edge_mm.data.scenes import Seen
from edge_mm.evaluate import swaps
from edge_mm.evaluate.metrics import summarise
from edge_mm.words import COLORS
from edge_mm_runtime.answer import Answer
from tests.edge_mm.conftest import imagined_view


def thing(number: int, kind: str, color: str, x: float, visible: float = 1.0) -> Seen:
    box = (x, 0.4, x + 0.1, 0.5)
    return Seen(number, kind, color, box, (x, 0.4), (x, 0.5), visible, 0.1, None)


def label_in(text: str) -> tuple[str, str]:
    words = text.replace("?", " ").replace(",", " ").split()
    (at,) = [i for i, word in enumerate(words) if word in COLORS]
    return words[at], words[at + 1]


def test_a_swap_asks_for_what_is_there_and_for_what_is_not(view_rng: random.Random) -> None:
    seen = 0
    for _ in range(60):
        view = imagined_view(view_rng)
        there = {(item.color, item.kind) for item in view}
        there |= {(color, "cup") for color, kind in there if kind == "mug"}
        for swap in swaps.color_swaps(view, view_rng, False):
            seen += 1
            labels = [label_in(text) for text, _ in swap.questions]
            assert [answer for _, answer in swap.questions] == [True, True, False, False]
            assert [label in there for label in labels] == [True, True, False, False]
            (a, b), (c, d) = labels[:2], labels[2:]
            assert (a[0], a[1], b[0], b[1]) == (d[0], c[1], c[0], d[1]), "only colours move"
    assert seen > 30


@pytest.mark.parametrize(
    "view",
    [
        [thing(1, "cup", "red", 0.1), thing(2, "bowl", "red", 0.5)],
        [thing(1, "cup", "red", 0.1), thing(2, "cup", "blue", 0.5)],
        [thing(1, "cup", "red", 0.1), thing(2, "bowl", "blue", 0.5), thing(3, "mug", "blue", 0.8)],
        [thing(1, "cup", "red", 0.1), thing(2, "bowl", "blue", 0.5, visible=0.2)],
    ],
)
def test_what_cannot_be_swapped_is_not(view: list[Seen]) -> None:
    pairs = swaps.color_swaps(view[:2], random.Random(0), False)
    assert not pairs or len(view) == 3
    assert not any(
        "blue cup" in text
        for s in swaps.color_swaps(view, random.Random(0), False)
        for text, _ in s.questions
    )


def test_relations_hold_one_way(view_rng: random.Random) -> None:
    seen = 0
    for _ in range(60):
        view = imagined_view(view_rng)
        for swap in swaps.relation_swaps(view, view_rng, False):
            seen += 1
            (one, yes), (other, no) = swap.questions
            assert (yes, no) == (True, False)
            name = next(r for r in ("left of", "right of", "in front of", "behind") if r in one)
            a, b = sorted(
                (item for item in view if item.label in one),
                key=lambda item: one.index(item.label),
            )
            assert other == one.replace(a.label, "#").replace(b.label, a.label).replace(
                "#", b.label
            )
            assert holds(a, name, b) is True and holds(b, name, a) is not True
    assert seen > 10


def test_only_all_four_right_count(scene_folder: Path) -> None:
    def yes(frame, text: str) -> Answer:
        return Answer("yes", (), None, (), "stop", {})

    figures = summarise(swaps.swap_exam(yes, scene_folder, None, False, 0))
    assert figures["swap_exist"].value == 0.0 and figures["swap_exist_each"].value == 0.5
    assert figures["swap_exist_each"].n == 4 * figures["swap_exist"].n > 0
    assert "swap_relation" not in figures, "drawn scenes do not say where things stand"
