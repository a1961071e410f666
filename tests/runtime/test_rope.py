"""Positions of several axes against the rule written out id by id."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm_runtime.rope import rope_positions

VOCAB = 100


def one_by_one(ids: list[int], rows: int, columns: int) -> list[tuple[int, int, int]]:
    """arXiv:2409.12191, section 2.1: a picture starts where the text stood; text goes on after the
    largest position that was given."""
    out: list[tuple[int, int, int]] = []
    start = 0
    for token in ids:
        if token < VOCAB:
            position = max((max(one) for one in out), default=-1) + 1
            out.append((position, position, position))
        else:
            row, column = divmod(token - VOCAB, columns)
            if token == VOCAB:
                start = max((max(one) for one in out), default=-1) + 1
            out.append((start, start + row, start + column))
    return out


@pytest.mark.parametrize(("rows", "columns"), [(3, 2), (2, 5), (1, 1), (4, 4)])
def test_positions_are_those_of_the_paper(rows: int, columns: int) -> None:
    picture = list(range(VOCAB, VOCAB + rows * columns))
    ids = [1, 2, *picture, 3, 4, 5]
    expected = np.array(one_by_one(ids, rows, columns)).T
    found = rope_positions(ids, VOCAB, rows, columns)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    for end in range(1, len(ids)):  # what follows changes nothing
        np.testing.assert_array_equal(
            rope_positions(ids[:end], VOCAB, rows, columns), found[:, :end]
        )


def test_words_alone_count_on() -> None:
    np.testing.assert_array_equal(rope_positions([5, 6, 7], VOCAB, 3, 3), [[0, 1, 2]] * 3)
