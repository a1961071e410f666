"""The assignment against exhaustive search, networkx and, where it is installed, scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from edge_mm_runtime.matching import alike, appearance, assign, match

FORBIDDEN = 1e6  # what a forbidden pair costs the references


def matrices(count: int, longest: int, seed: int) -> list[np.ndarray]:
    """Random rectangular costs: each second one with ties, each third one with forbidden pairs."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        costs = rng.normal(0, 1, rng.integers(1, longest + 1, 2))
        if number % 2:
            costs = np.round(costs)
        if number % 3 == 0:
            costs[rng.random(costs.shape) < rng.uniform(0, 0.9)] = np.inf
        made.append(costs)
    return made


def check(costs: np.ndarray, pairs: list[tuple[int, int]], best: tuple[int, float]) -> None:
    rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
    assert rows == sorted(set(rows)) and len(set(columns)) == len(columns)
    total = sum(costs[pair] for pair in pairs)
    assert len(pairs) == best[0]
    assert total == pytest.approx(best[1])  # inf where a forbidden pair was made


def exhaustive(costs: np.ndarray) -> tuple[int, float]:
    """Most pairs, least cost, by trying every permutation."""
    wide = costs if costs.shape[0] <= costs.shape[1] else costs.T
    rows = np.arange(len(wide))
    tried = np.array(list(itertools.permutations(range(wide.shape[1]), len(wide))))
    taken = wide[rows, tried]
    allowed = np.isfinite(taken)
    totals = np.where(allowed, taken, 0).sum(1)
    most = allowed.sum(1).max()
    return int(most), float(totals[allowed.sum(1) == most].min())


def test_assignment_is_the_best_of_all_permutations() -> None:
    for costs in matrices(500, 6, seed=1):
        check(costs, assign(costs), exhaustive(costs))


def test_assignment_agrees_with_scipy() -> None:
    for costs in matrices(500, 30, seed=3):
        filled = np.where(np.isfinite(costs), costs, FORBIDDEN)
        taken = costs[linear_sum_assignment(filled)]
        check(costs, assign(costs), (np.isfinite(taken).sum(), taken[np.isfinite(taken)].sum()))


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_to_assign(shape: tuple[int, int]) -> None:
    assert assign(np.zeros(shape)) == []


def test_all_forbidden() -> None:
    assert assign(np.full((2, 3), np.inf)) == []


@pytest.mark.parametrize("costs", [[[np.nan]], [[-np.inf]], [1.0, 2.0]])
def test_costs_that_mean_nothing_are_refused(costs: list) -> None:
    with pytest.raises(ValueError, match="costs are"):
        assign(costs)


def picture() -> np.ndarray:
    """Grey, with a red and a blue square of 20 pixels."""
    bgr = np.full((60, 120, 3), 128, np.uint8)
    bgr[20:40, 10:30] = (30, 30, 220)
    bgr[20:40, 80:100] = (220, 60, 20)
    return bgr


def test_appearance_tells_colours_apart_and_knows_its_own() -> None:
    bgr = picture()
    red, blue = np.array([10.0, 20, 30, 40]), np.array([80.0, 20, 100, 40])
    brighter = np.clip(bgr * 1.1, 0, 255).astype(np.uint8)
    shifted = red + 2
    assert alike(appearance(bgr, red), appearance(bgr, red)) == pytest.approx(1)
    assert alike(appearance(bgr, red), appearance(bgr, shifted)) > 0.6
    assert alike(appearance(bgr, red), appearance(brighter, red)) > 0.6
    assert alike(appearance(bgr, red), appearance(bgr, blue)) < 0.1


@pytest.mark.parametrize(
    "box", [(-40, 0, -10, 20), (200, 0, 230, 20), (5, 5, 5, 5), (-5, -5, 300, 300), (0, 0, 1, 1)]
)
def test_appearance_of_any_box(box: tuple[float, ...]) -> None:
    found = appearance(picture(), np.array(box, np.float64))
    assert found.shape == (192,) and np.isfinite(found).all()


def looks(*colours: int) -> list[np.ndarray]:
    return [np.eye(3, dtype=np.float32)[colour] for colour in colours]


def test_boxes_are_matched_by_place_and_look() -> None:
    here = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    moved = np.array([[21.0, 0, 31, 10], [1, 0, 11, 10], [60, 0, 70, 10]])
    labels = (["cup", "cup"], ["cup", "Cup ", "cup"])
    assert match((here, moved), (looks(0, 1), looks(1, 0, 2)), labels) == [(0, 1), (1, 0)]
    # Between two places that overlap alike, the look decides.
    between = np.array([[4.0, 0, 14, 10], [-4, 0, 6, 10]])
    for first, second, wanted in ((0, 1, 0), (1, 0, 1)):
        pairs = match(
            (here[:1], between), (looks(0), looks(first, second)), (["cup"], ["cup", "cup"])
        )
        assert pairs == [(0, wanted)]


def test_another_label_or_a_far_place_is_no_match() -> None:
    here = np.array([[0.0, 0, 10, 10]])
    assert match((here, here), (looks(0), looks(0)), (["cup"], ["bowl"])) == []
    assert match((here, here + 50), (looks(0), looks(0)), (["cup"], ["cup"])) == []
    # Another adjective of what looks the same is no other thing; of what does not, it is.
    assert match((here, here), (looks(0), looks(0)), (["red cup"], ["brown Cup"])) == [(0, 0)]
    assert match((here, here), (looks(0), looks(1)), (["red cup"], ["brown cup"])) == []
    assert match((here, np.zeros((0, 4))), (looks(0), []), (["cup"], [])) == []
