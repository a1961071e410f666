"""What is drawn of the looks, against sums written out."""

from __future__ import annotations

from itertools import combinations
from math import sqrt

import msgspec
import numpy as np
import pytest

from edge_mm.report.alignment import cosines, figures, plane
from edge_mm.train.trace import Look, Subjects
from tests.edge_mm.report.conftest import PAIRS, made_up_look


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    dot, aa, bb = (sum(x * y for x, y in zip(u, v, strict=True)) for u, v in
                   ((a, b), (a, a), (b, b)))  # fmt: skip
    return float(dot / sqrt(aa * bb))


def test_cosines_and_their_means(subjects: Subjects) -> None:
    look = made_up_look(1)
    table = cosines(look)
    for i in range(PAIRS):
        for j in range(PAIRS):
            assert table[i, j] == pytest.approx(by_hand(look.image[i], look.text[j]), abs=1e-6)
    found = figures(look, subjects)
    own = [table[i, i] for i in range(PAIRS)]
    others = [table[i, j] for i in range(PAIRS) for j in range(PAIRS) if i != j]
    assert found["diagonal"] == pytest.approx(sum(own) / 8)
    assert found["rest"] == pytest.approx(sum(others) / 56)
    nearest = [max(range(PAIRS), key=lambda j: table[i, j]) == i for i in range(PAIRS)]
    assert found["retrieved"] == sum(nearest) / 8


def test_words_count_only_where_something_is_shown(subjects: Subjects) -> None:
    # shown 2 2 - - 3 3 3 3 -, nearest 2 2 2 2 n n n n n
    assert figures(made_up_look(0), subjects)["words"] == pytest.approx(2 / 6)
    assert figures(made_up_look(3), subjects)["words"] == 1.0
    nothing = msgspec.structs.replace(subjects, shown=((-1,) * 9,))
    assert figures(made_up_look(3), nothing)["words"] is None


def test_a_plane_is_drawn_as_it_is() -> None:
    """Unit vectors that lie in a plane keep their distances, at every look."""
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.normal(size=(7, 2)))[0].T
    looks = []
    for turn in (0.5, 1.0):
        angles = turn * rng.uniform(0, 6, (2, 5))
        image, text = (np.stack([np.cos(a), np.sin(a)], 1) @ basis for a in angles)
        empty = np.zeros((0, 9))
        looks.append(Look("s", 0, 0, 3 * image, 0.2 * text, empty, empty))
    points, kept = plane(looks)
    assert kept == pytest.approx(1.0)
    for look, drawn in zip(looks, points, strict=True):
        true = np.concatenate([look.image / 3, look.text / 0.2])
        for i, j in combinations(range(10), 2):
            wanted = np.linalg.norm(true[i] - true[j])
            assert np.linalg.norm(drawn[i] - drawn[j]) == pytest.approx(wanted, abs=1e-6)


def test_the_axes_are_those_of_the_last_look() -> None:
    early, late = made_up_look(0), made_up_look(3)
    (_, alone), kept = plane([early, late])
    np.testing.assert_allclose(alone, plane([late])[0][0])
    assert 0 < kept < 1
    variances = alone.var(0)
    assert variances[0] > variances[1]
    np.testing.assert_allclose(alone.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(alone[:PAIRS], alone[PAIRS:], atol=1e-6)  # pairs are together


def test_features_that_are_all_the_same() -> None:
    ones, empty = np.ones((4, 3)), np.zeros((0, 9))
    points, kept = plane([Look("s", 0, 0, ones, ones, empty, empty)])
    assert np.isfinite(points[0]).all() and kept == 1.0
