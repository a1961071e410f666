"""Against closed forms and loops."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm.evaluate import embeddings as e

CAPTIONS = ("a", "b", "a", "c", "d", "b", "e", "f")


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(8, 4))
    return image, image + rng.normal(size=(8, 4))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_recall_by_sorting(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    cosines = e.normalised(pairs[0]) @ e.normalised(pairs[1]).T
    same = e.same_captions(CAPTIONS)
    found = []
    for k in (1, 2, 5):
        for row in range(8):
            scores = [cosine(pairs[0][row], text) for text in pairs[1]]
            first = sorted(range(8), key=lambda j: -scores[j])[:k]
            found.append(any(CAPTIONS[j] == CAPTIONS[row] for j in first))
    assert np.concatenate([e.recall_at(cosines, same, k) for k in (1, 2, 5)]).tolist() == found
    assert 0 < sum(found) < len(found)


def test_features_that_say_nothing_find_nothing() -> None:
    constant, same = np.ones((8, 8)), np.eye(8, dtype=bool)
    assert not e.recall_at(constant, same, 5).any()
    assert e.ranked_above(constant, same).tolist() == [0.5] * 8
    assert e.effective_rank(np.ones((8, 4))) == 0.0


def test_ranking_by_counting(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    cosines = e.normalised(pairs[0]) @ e.normalised(pairs[1]).T
    wanted = [
        np.mean([cosines[i, i] > cosines[i, j] for j in range(8) if CAPTIONS[j] != CAPTIONS[i]])
        for i in range(8)
    ]
    np.testing.assert_allclose(e.ranked_above(cosines, e.same_captions(CAPTIONS)), wanted)
    assert np.isnan(e.ranked_above(cosines, np.ones((8, 8), bool))).all()


def test_modality_gap_of_known_cones() -> None:
    right, up = np.tile([3.0, 0.0], (5, 1)), np.tile([0.0, 0.2], (5, 1))
    assert e.modality_gap(right, right) == 0.0
    assert e.modality_gap(right, up) == pytest.approx(np.sqrt(2))
    assert e.modality_gap(right, -right) == pytest.approx(2.0)


def test_effective_rank_of_known_spectra() -> None:
    axes = np.concatenate([np.eye(6), -np.eye(6)])
    assert e.effective_rank(axes[[0, 1, 2, 6, 7, 8]] * 7) == pytest.approx(3.0)
    assert e.effective_rank(axes[[0, 6]]) == pytest.approx(1.0)
    # four pairs along one axis and one along another: singular values 2 : 1
    shares = np.array([2, 1]) / 3
    uneven = axes[[0, 6] * 4 + [1, 7]]
    assert e.effective_rank(uneven) == pytest.approx(np.prod(shares**-shares))


def test_neighbours_by_sorting(pairs: tuple[np.ndarray, np.ndarray]) -> None:
    def nearest(features: np.ndarray, row: int) -> set[int]:
        others = [j for j in range(8) if j != row]
        return set(sorted(others, key=lambda j: -cosine(features[row], features[j]))[:3])

    wanted = [len(nearest(pairs[0], i) & nearest(pairs[1], i)) / 3 for i in range(8)]
    found = e.neighbour_agreement(*pairs, k=3)
    assert found.tolist() == pytest.approx(wanted) and 0 < found.mean() < 1
    assert e.neighbour_agreement(pairs[0], pairs[0] * 2, k=3).tolist() == [1.0] * 8


def test_consistency_of_two_clusters() -> None:
    image = np.repeat(np.eye(2), 3, axis=0)
    shown = [frozenset({"red", "cup"})] * 3 + [frozenset({"blue", "bowl"})] * 3
    assert e.semantic_consistency(image, e.jaccard(shown)).tolist() == [1.0] * 6
    mixed = [shown[0], shown[3], shown[0], shown[3], shown[0], shown[3]]
    # two of the three that show the same lie in one cluster: by hand, for the first picture
    assert e.semantic_consistency(image, e.jaccard(mixed))[0] == pytest.approx(1 / 2 - 1 / 3)
    assert np.isnan(e.semantic_consistency(image, np.ones((6, 6)))).all()


def test_jaccard_by_sets() -> None:
    sets = [frozenset("abc"), frozenset("bcd"), frozenset("x"), frozenset()]
    found = e.jaccard(sets)
    for i, a in enumerate(sets):
        for j, b in enumerate(sets):
            assert found[i, j] == (len(a & b) / len(a | b) if a | b else 1.0)


def test_zero_shot_takes_the_nearest_mean_of_directions() -> None:
    # the second class has one long prompt beside it and one short one on it: lengths do not count
    prompts = np.array([[[1.0, 0.1], [1.0, -0.1]], [[9.0, 9.0], [0.0, 0.1]]])
    assert e.zero_shot(np.array([[2.0, 0.1], [0.1, 5.0], [0.5, 1.0]]), prompts).tolist() == [
        0,
        1,
        1,
    ]
