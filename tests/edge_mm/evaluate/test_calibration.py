"""Calibration against sums by hand, and which located thing and which word counts as right."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm.data.questions import Question
from edge_mm.data.scenes import Scene, Seen
from edge_mm.evaluate.calibration import (
    auroc,
    calibration,
    calibration_error,
    located,
    reliability,
    worded,
)
from edge_mm.evaluate.exam import Item, Marked
from edge_mm.evaluate.metrics import measure
from edge_mm_runtime.answer import Answer, GroundedObject

SCENE = Scene("0", "0.png", 100, 100, ())
BOX, FAR = (10.0, 10.0, 30.0, 30.0), (60.0, 60.0, 80.0, 80.0)


def seen(number: int, box: tuple[float, ...]) -> Seen:
    unit = tuple(value / 100 for value in box)
    return Seen(number, "cup", "red", unit, unit[:2], unit[2:], 1.0, 0.1, None)


def marked(kind: str, targets: list[Seen], *found: tuple) -> Marked:
    objects = tuple(GroundedObject("red cup", box, point, sure) for box, point, sure in found)
    question = Question(kind, "", "", tuple(t.id for t in targets))
    return Marked(
        Item(SCENE, question, tuple(targets)), Answer("", objects, None, (), "stop", {}), {}
    )


def said(kind: str, right: str, text: str, sure: float | None) -> Marked:
    """A question that a word answers, and what was answered."""
    answer = Answer(text, (), None, (), "stop", {}, confidence=sure)
    return Marked(Item(SCENE, Question(kind, "", right), ()), answer, {})


def test_error_and_table_by_hand() -> None:
    sure = np.array([0.95, 0.92, 0.55, 1.0, 0.05])
    right = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    # bins 0.9-1: three, mean 0.9567, right 2/3; 0.5-0.6: 0.55 and 1; 0-0.1: 0.05 and 0
    wanted = (3 * abs(2.87 / 3 - 2 / 3) + abs(0.55 - 1) + 0.05) / 5
    assert calibration_error(sure, right, np.ones(5)) == pytest.approx(wanted)
    table = reliability(sure, right)
    assert [(row.low, row.n, row.right) for row in table] == [
        (0, 1, 0),
        (0.5, 1, 1),
        (0.9, 3, 0.6667),
    ]
    assert table[2].confidence == pytest.approx(2.87 / 3, abs=1e-4)
    doubled = calibration_error(np.r_[sure, sure[:1]], np.r_[right, right[:1]], np.ones(6))
    assert calibration_error(sure, right, np.array([2, 1, 1, 1, 1])) == pytest.approx(doubled)


def test_a_calibrated_model_has_little_error() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(20_000)
    right = (rng.random(20_000) < sure).astype(float)
    assert calibration_error(sure, right, np.ones(20_000)) < 0.02
    assert calibration_error(sure**3, right, np.ones(20_000)) > 0.15


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_share_of_pairs_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sure = rng.integers(0, 12, 60) / 11  # with ties
    right = (rng.random(60) < sure**seed).astype(float)
    right[:2] = 0, 1
    repeats = rng.integers(0, 3, 60)
    repeats[:2] = 1
    good, bad = (np.repeat(sure, repeats * (right == is_right)) for is_right in (1, 0))
    ahead = [float(g > b) + 0.5 * float(g == b) for g in good for b in bad]
    assert auroc(sure, right, repeats.astype(float)) == pytest.approx(np.mean(ahead))
    assert auroc(-sure, right, repeats.astype(float)) == pytest.approx(1 - np.mean(ahead))


def test_the_area_by_hand() -> None:
    sure, each = np.array([0.1, 0.4, 0.35, 0.8]), np.ones(4)
    assert auroc(sure, np.array([0.0, 0, 1, 1]), each) == 0.75
    assert auroc(sure, np.array([0.0, 0, 0, 0]), each) == 0.5, "nothing to tell apart"


def test_what_is_right() -> None:
    cup = seen(1, BOX)
    assert list(located(marked("locate", [cup], (BOX, (5, 5), 0.8)))) == [(0.8, True)]
    assert list(located(marked("locate", [cup], (FAR, (15, 15), 0.8)))) == [(0.8, False)]
    assert list(located(marked("point", [cup], (FAR, (15, 15), 0.7)))) == [(0.7, True)]
    assert list(located(marked("absent", [], (BOX, None, 0.6)))) == [(0.6, False)]
    twice = marked("locate_all", [cup, seen(2, FAR)], (BOX, None, 0.4), (BOX, None, 0.9))
    assert list(located(twice)) == [(0.9, True), (0.4, False)], "each thing is found once"


def test_figures_over_pictures() -> None:
    cup = seen(1, BOX)
    exam = [
        [marked("locate", [cup], (BOX, None, 0.8)), marked("color", [cup], (BOX, None, 0.1))],
        [marked("absent", [], (BOX, None, 0.6))],
        [],
    ]
    figures, bins, word_bins = calibration(exam)
    metrics = measure(figures, len(exam))
    assert metrics["located_right"].value == 0.5 and metrics["located_right"].n == 2
    assert metrics["located_confidence"].value == pytest.approx(0.7)
    assert metrics["located_brier"].value == pytest.approx((0.2**2 + 0.6**2) / 2)
    assert metrics["located_ece"].value == pytest.approx((0.2 + 0.6) / 2)
    assert metrics["located_auroc"].value == 1.0, "the right one is surer"
    assert sum(row.n for row in bins) == 2
    assert not word_bins and "words_right" not in figures, "nothing was said in words"
    assert calibration([[marked("locate", [cup])]]) == ({}, [], [])


def test_which_words_are_right() -> None:
    assert list(worded(said("color", "red", "red", 0.8))) == [(0.8, True)]
    assert list(worded(said("order", "cup, bowl", "bowl, cup", 0.3))) == [(0.3, False)]
    assert list(worded(said("count", "3", "30", None))) == [], "cut short: no confidence"


def test_figures_of_words() -> None:
    exam = [
        [said("exist", "yes", "yes", 0.9), said("count", "3", "2", 0.7)],
        [],
        [said("relation", "left of", "left of", 0.75), said("caption", "a cup", "a cup", 0.1)],
        [said("absent", "<none>", "not in view", 0.2), said("order", "a, b", "a", None)],
    ]
    figures, bins, word_bins = calibration(exam)
    assert set(figures) == {
        f"words_{name}" for name in ("right", "confidence", "brier", "ece", "auroc")
    }
    metrics = measure(figures, len(exam))
    assert metrics["words_right"].value == pytest.approx(2 / 3, abs=1e-4)
    assert metrics["words_right"].n == 3
    assert metrics["words_confidence"].value == pytest.approx(2.35 / 3, abs=1e-4)
    brier = (0.1**2 + 0.7**2 + 0.25**2) / 3
    assert metrics["words_brier"].value == pytest.approx(brier, abs=1e-4)
    # bins 0.7-0.8: 0.7 and 0.75, one of them right; 0.9-1: 0.9, right
    assert metrics["words_ece"].value == pytest.approx((0.45 + 0.1) / 3, abs=1e-4)
    assert [(row.low, row.n, row.confidence, row.right) for row in word_bins] == [
        (0.7, 2, 0.725, 0.5),
        (0.9, 1, 0.9, 1.0),
    ]
    assert not bins


@pytest.mark.parametrize("kind", ["exist", "count", "color", "relation", "compare", "order"])
def test_each_question_of_words_counts(kind: str) -> None:
    figures, _, _ = calibration([[said(kind, "red", "red", 0.5)]])
    assert figures["words_right"].n == 1
    assert "words_auroc" not in figures, "none was wrong"
