"""Rewards of answers whose worth can be said by hand."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from edge_mm.data.questions import MAKERS, ask
from edge_mm.evaluate.judge import iou, matched_overlaps
from edge_mm.objectives.rewards import reward
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.conftest import imagined_view


def box(label: str, *places: int) -> str:
    return f"<ref>{label}</ref><box>" + "".join(f"<loc{p:03d}>" for p in places) + "</box>"


def point(*places: int) -> str:
    return "<ref>cup</ref><point>" + "".join(f"<loc{p:03d}>" for p in places) + "</point>"


CUP, BOWL = box("red cup", 10, 10, 30, 30), box("blue bowl", 60, 60, 100, 80)
HALF_CUP = box("red cup", 10, 10, 20, 30)  # the left half of it
WANTED_STEPS = f"pick {CUP}; place left of {BOWL}"


@pytest.mark.parametrize(
    ("kind", "wanted", "said", "worth"),
    [
        ("locate", CUP, CUP, 1.0),
        ("locate", CUP, CUP + "<eos>", 1.0),
        ("locate", CUP, HALF_CUP, 0.5),
        ("locate", CUP, BOWL, 0.0),
        ("locate", CUP, CUP + BOWL, 0.5),  # one too many
        ("locate", CUP, "<none>", 0.0),
        ("locate", CUP, "red cup", 0.0),
        ("locate", CUP, CUP + "<box>", 0.0),  # malformed
        ("locate", CUP, f"pick {CUP}", 0.0),  # another kind of answer
        ("locate", CUP, point(20, 20), 0.0),
        ("locate", "<none>", "<none>", 1.0),
        ("locate_all", CUP + BOWL, BOWL + CUP, 1.0),  # in any order
        ("locate_all", CUP + BOWL, BOWL, 0.5),
        ("locate_all", CUP + BOWL, HALF_CUP + BOWL, 0.75),
        ("locate_all", CUP + BOWL, CUP + CUP, 0.5),  # nothing is found twice
        ("absent", "<none>", "<none>", 1.0),
        ("absent", "<none>", CUP, 0.0),
        ("absent", "<none>", "not in view", 0.0),
        ("point", point(64, 64), point(64, 64), 1.0),
        ("point", point(64, 64), point(64, 70), 1 - 6 / 12.8),
        ("point", point(64, 64), point(64, 90), 0.0),
        ("point", point(64, 64), point(64, 64) * 2, 0.0),
        ("point", point(64, 64), CUP, 0.0),
        ("steps", WANTED_STEPS, WANTED_STEPS, 1.0),
        ("steps", WANTED_STEPS, f"pick {HALF_CUP}; place left of {BOWL}", 0.75),
        ("steps", WANTED_STEPS, f"pick {CUP}; place right of {BOWL}", 0.0),
        ("steps", WANTED_STEPS, f"pick {CUP}", 0.0),
        ("steps", WANTED_STEPS, CUP + BOWL, 0.0),
        ("steps", WANTED_STEPS, WANTED_STEPS.replace("red cup", "cup"), 0.0),
        ("count", "3", "3", 1.0),
        ("count", "3", "4", 0.0),
        ("exist", "no", "<none>", 0.0),
        ("compare", "red cup", CUP, 0.0),
        ("caption", "a red cup", "a red cup<eos>", 1.0),
    ],
)
def test_reward(kind: str, wanted: str, said: str, worth: float) -> None:
    assert reward(kind, wanted, said) == pytest.approx(worth, abs=1e-9)


def test_every_question_has_a_reward() -> None:
    rng = random.Random(0)
    for name in MAKERS:
        asked = [ask(imagined_view(rng), rng, kinds=[name]) for _ in range(20)]
        assert any(asked), name
        for question in filter(None, asked):
            assert reward(question.type, question.answer, question.answer) == pytest.approx(1)
            assert reward(question.type, question.answer, "<box><loc999>") == 0


def test_matching_never_beats_the_best() -> None:
    rng = random.Random(0)

    def boxes(count: int) -> list[tuple[float, ...]]:
        corners = [(rng.random(), rng.random()) for _ in range(count)]
        return [(x, y, x + rng.uniform(0.3, 1), y + rng.uniform(0.3, 1)) for x, y in corners]

    for _ in range(30):
        found, wanted = boxes(rng.randint(0, 3)), boxes(3)
        overlaps = matched_overlaps(found, wanted)
        assert len(overlaps) == len(found)
        best = max(
            sum(iou(a, b) for a, b in zip(found, order, strict=False))
            for order in permutations(wanted)
        )
        assert max(overlaps, default=0) <= sum(overlaps) <= best + 1e-9


def test_what_cannot_be_rewarded() -> None:
    with pytest.raises(UsageError, match="'guess'"):
        reward("guess", "yes", "yes")
    with pytest.raises(UsageError, match="locate question is 'yes'"):
        reward("locate", "yes", CUP)
