"""Where tokens stand for a rotary embedding of several axes: by time, row and column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def rope_positions(
    ids: Sequence[int], vocab_size: int, rows: int, columns: int
) -> npt.NDArray[np.int64]:
    """Time, row and column [3, S] by which each of `ids`, from the first of a context, turns.

    Words count on in all three; a picture of `rows` x `columns` tokens (ids >= vocab_size) stands
    at one time and takes as much of it as its longer side (arXiv:2409.12191, section 2.1).
    """
    place = np.asarray(ids, np.int64) - vocab_size
    is_word, is_last = place < 0, place == rows * columns - 1
    takes = np.where(is_word, 1, np.where(is_last, max(rows, columns), 0))
    begins = np.cumsum(takes) - takes
    inside = np.maximum(place, 0)
    offsets = np.stack([np.zeros_like(inside), inside // columns, inside % columns])
    positions: npt.NDArray[np.int64] = begins + offsets
    return positions
