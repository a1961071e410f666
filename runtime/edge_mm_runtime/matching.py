"""Which box is which: the cheapest one-to-one assignment, and what makes two boxes alike.

The assignment is the Hungarian problem, solved by shortest augmenting paths (Jonker and Volgenant
1987; Crouse 2016, doi 10.1109/TAES.2016.140952), in numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.confidence import iou
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame

Floats = npt.NDArray[np.float64]

IOU_SHARE = 0.7  # of the likeness of two boxes; the rest is their appearance
GATE = (
    0.65  # a pair that costs more is no pair: IoU 0.5 with nothing else, or 0.1 and the same look
)
SAME_LOOK = 0.6  # correlation of appearances from which on two boxes may show one thing
HUES, SATURATIONS, VALUES = 12, 4, 4
GREY_SATURATION = 48  # of 255; below, the hue is noise


def assign(costs: npt.ArrayLike) -> list[tuple[int, int]]:
    """Pairs (row, column) that cost least together, in the order of the rows.

    costs [R, C]; inf forbids a pair. As many pairs as are allowed are made, and among those the
    cheapest: a row or column without a partner is in none. ValueError for nan and -inf.
    """
    given = np.asarray(costs, np.float64)
    if given.ndim != 2:
        raise ValueError(f"costs are [R, C], this is {given.shape}")
    if np.isnan(given).any() or np.isneginf(given).any():
        raise ValueError("costs are finite, or inf for a pair that is forbidden")
    allowed = np.isfinite(given)
    if not allowed.any():
        return []
    if given.shape[0] > given.shape[1]:
        return sorted((row, column) for column, row in assign(given.T))
    low, high = given[allowed].min(), given[allowed].max()
    # One forbidden pair costs more than all others together can save.
    penalty = (high - low + 1.0) * (len(given) + 1)
    columns = _assign_rows(np.where(allowed, given - low, penalty))
    return [(row, column) for row, column in enumerate(columns) if allowed[row, column]]


def _assign_rows(costs: Floats) -> list[int]:
    """The column of each row; costs [R, C] finite, R <= C."""
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    column_of, row_of = np.full(rows, -1), np.full(columns, -1)
    for first in range(rows):
        shortest, before = np.full(columns, np.inf), np.full(columns, -1)
        reached = np.zeros(columns, np.bool_)
        row, length, walked = first, 0.0, [first]
        while True:
            through = length + costs[row] - row_price[row] - column_price
            nearer = ~reached & (through < shortest)
            shortest[nearer], before[nearer] = through[nearer], row
            column = int(np.where(reached, np.inf, shortest).argmin())
            length = float(shortest[column])
            reached[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
            walked.append(row)
        row_price[first] += length
        for row in walked[1:]:
            row_price[row] += length - shortest[column_of[row]]
        column_price[reached] -= length - shortest[reached]
        row = -1
        while row != first:  # the path is turned over: each row on it takes the column before
            row = int(before[column])
            row_of[column] = row
            column_of[row], column = column, int(column_of[row])
    return [int(column) for column in column_of]


def appearance(bgr: Frame, box: Floats) -> npt.NDArray[np.float32]:
    """A histogram [192] of hue, saturation and value inside a box: zero mean, of length 1.

    bgr [H, W, 3]; box x1 y1 x2 y2 in its pixels, cut at its edges; zeros for a box outside. The
    ellipse in the box counts: its corners are mostly background. Square roots of the shares, so
    that one large plain area does not hide the rest.
    """
    cv2 = require("cv2", "cpu")
    height, width = bgr.shape[:2]
    x1, y1 = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(box[2:]), 0, (width, height)).astype(int)
    bins = (HUES, SATURATIONS, VALUES)
    if x2 <= x1 or y2 <= y1:
        return np.zeros(HUES * SATURATIONS * VALUES, np.float32)
    hsv = cv2.cvtColor(bgr[y1:y2, x1:x2], cv2.COLOR_BGR2HSV)
    hsv[..., 0][hsv[..., 1] < GREY_SATURATION] = 0
    mask = np.zeros(hsv.shape[:2], np.uint8)
    middle = ((box[0] + box[2]) / 2 - x1, (box[1] + box[3]) / 2 - y1)
    cv2.ellipse(mask, (middle, (box[2] - box[0], box[3] - box[1]), 0.0), 1, -1)
    counts = cv2.calcHist([hsv], [0, 1, 2], mask, bins, [0, 180, 0, 256, 0, 256])
    shares = np.sqrt(counts.ravel())
    shares -= shares.mean()
    length = float(np.linalg.norm(shares))
    found: npt.NDArray[np.float32] = (shares / length if length else shares).astype(np.float32)
    return found


def alike(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Correlation of two appearances, -1..1."""
    return float(a @ b)


def same_label(a: str, b: str) -> bool:
    """Whether two labels name the same, whatever their case and spaces."""
    return a.strip().casefold() == b.strip().casefold()


def may_be(a: str, b: str, look: float) -> bool:
    """Whether two labels may name one thing, by how much alike the two boxes look.

    The same label may; so may another one of the same kind, its last word, if it looks the same:
    a model that says "red cup" and then "brown cup" of one thing is not sure of its colour.
    """
    return same_label(a, b) or (look >= SAME_LOOK and _kind(a) == _kind(b))


def _kind(label: str) -> list[str]:
    return label.casefold().split()[-1:]


def match(
    boxes: tuple[Floats, Floats],
    appearances: tuple[Sequence[npt.NDArray[np.float32]], Sequence[npt.NDArray[np.float32]]],
    labels: tuple[Sequence[str], Sequence[str]],
    gate: float = GATE,
) -> list[tuple[int, int]]:
    """Pairs of two sets of boxes [n, 4] and [m, 4] in the same frame that show the same thing.

    The cost of a pair is 1 - (0.7 IoU + 0.3 correlation of the appearances). It is forbidden where
    the labels cannot name one thing (see `may_be`) or it costs more than `gate`.
    """
    costs = np.full((len(boxes[0]), len(boxes[1])), np.inf)
    for row, box in enumerate(boxes[0]):
        if not len(boxes[1]):
            break
        overlaps = iou(box, boxes[1])
        for column, overlap in enumerate(overlaps):
            look = max(0.0, alike(appearances[0][row], appearances[1][column]))
            cost = 1 - (IOU_SHARE * overlap + (1 - IOU_SHARE) * look)
            if cost <= gate and may_be(labels[0][row], labels[1][column], look):
                costs[row, column] = cost
    return assign(costs)
