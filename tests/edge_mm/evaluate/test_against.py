"""Differences: where there is none, where there is one, and by the textbook's error."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm.evaluate.against import NOISE, compare
from edge_mm.evaluate.metrics import figures, measure, one_by_one

Scores = list[list[dict[str, float]]]


def scores(right: np.ndarray, name: str = "color_acc") -> Scores:
    return [[{name: float(value)}] for value in right]


def test_the_same_answers_do_not_differ() -> None:
    same = figures(scores(np.arange(40) % 3 == 0))
    difference = compare(same, same, 40)["color_acc"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert difference.verdict == NOISE


def test_the_interval_is_that_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(400)  # what makes a picture hard for both
    a, b = ((hard + rng.normal(0, 0.05, 400) < limit) for limit in (0.7, 0.62))
    difference = compare(figures(scores(a)), figures(scores(b)), 400)["color_acc"]
    paired = a.astype(float) - b
    error = 1.96 * paired.std() / np.sqrt(400)
    assert difference.value == pytest.approx(paired.mean(), abs=1e-4)
    assert difference.high - difference.low == pytest.approx(2 * error, rel=0.2)
    alone = 1.96 * np.sqrt(a.var() / 400 + b.var() / 400)
    assert error < 0.6 * alone, "pairing is what makes it sharp"
    assert difference.verdict == "better"


def test_lower_is_better_where_it_is() -> None:
    more, less = np.ones(50), np.arange(50) % 2
    for name, verdict in (
        ("color_acc", "better"),
        ("blank_located", "worse"),
        ("pope_random_yes", "changed"),
    ):
        ours, theirs = figures(scores(more, name)), figures(scores(less, name))
        assert compare(ours, theirs, 50)[name].verdict == verdict
    assert compare(figures(scores(less)), figures(scores(more)), 50)["color_acc"].verdict == "worse"


@pytest.mark.parametrize(("differing", "verdict"), [(5, NOISE), (6, "better")])
def test_a_handful_of_pictures_proves_nothing(differing: int, verdict: str) -> None:
    """All of them better: as a coin that falls on one side 5 or 6 times."""
    right = np.arange(8) < differing
    ours, theirs = figures(scores(right)), figures(scores(np.zeros(8)))
    assert compare(ours, theirs, 8)["color_acc"].verdict == verdict


def test_chance_is_called_noise_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    verdicts = []
    for trial in range(200):
        a, b = rng.random((2, 60)) < 0.6
        verdicts.append(
            compare(figures(scores(a)), figures(scores(b)), 60, trial)["color_acc"].verdict
        )
    assert 0.88 < np.mean([verdict == NOISE for verdict in verdicts]) < 0.99


def test_what_repeats_shift_is_moved_back() -> None:
    """The number of different pictures in a draw is 63 % of what it is without repeats."""
    figure = one_by_one(lambda drawn: float(len(np.unique(drawn))), 50)
    metric = measure({"kinds": figure}, 50)["kinds"]
    assert metric.value == 50 and metric.low < 50 < metric.high
