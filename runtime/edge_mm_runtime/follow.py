"""Carries boxes from one frame to the next: pyramidal Lucas-Kanade on points inside each box.

Points that do not come back to where they started when they are tracked backwards are dropped
(forward-backward error), and the box moves by the medians of shift and scale of the others: Median
Flow (Kalal, Mikolajczyk and Matas 2010, doi 10.1109/ICPR.2010.675). Shift and scale are measured
against the frame in which the points were chosen, so that rounding does not add up from frame to
frame. Where too few points are left, the box is looked for as a picture nearby.

Everything here is in pixels of a small copy of the frame (see `shrink`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame
from edge_mm_runtime.matching import alike, appearance

Floats = npt.NDArray[np.float64]
Points = npt.NDArray[np.float32]
# followed: the box is where the thing is; failed: it is not known where; left: out of the frame
Fate = Literal["followed", "failed", "left"]

SIDE = 320  # pixels: the longest side of the small copy
BLUR = 1.0  # pixels, standard deviation: the camera's noise is not what is followed
MAX_POINTS, MIN_POINTS = 36, 5
GRID = 4  # x GRID points where a box has few corners
QUALITY = 0.05  # of the best corner of a box: the least that is followed
WINDOW, LEVELS = (15, 15), 3
MAX_BACKWARD = 1.0  # pixels between a point and where it comes back to
MAX_RESIDUAL = 0.08  # of the box's diagonal: a point that moved otherwise is of another thing
MIN_RESIDUAL = 1.5  # pixels
MAX_STEP_SCALE = 1.25  # in one step
MAX_SCALE = 3.0  # since the points were chosen
MIN_SIDE = 3.0  # pixels: a smaller box cannot be followed
MIN_LIKENESS = 0.35  # correlation with the appearance when it was grounded
SURE_LIKENESS = 0.7  # below, points are not chosen anew: something else may be in the box
LEFT_SHARE = 0.25  # of the box in the frame: less, and it has left
# It cannot be followed: it has left if less than this was in the frame, or if it went so fast that
# it is out after so many more steps.
LEAVING_SHARE, LEAVING_STEPS = 0.7, 5
SEARCH = 14  # pixels around the last place in which the picture is looked for
MIN_NCC = 0.8  # normalised cross-correlation of the picture with what is found
MIN_CONTRAST = 3.0  # standard deviation, of 255, of a picture that can be found again


class Small(NamedTuple):
    """A frame made small: grey [h, w], BGR [h, w, 3] where colour is needed, and how small."""

    grey: Frame
    bgr: Frame | None
    scale: tuple[float, float]  # small pixels per frame pixel, x and y


@dataclass
class Held:
    """A box that is being carried; `box` may reach out of the frame.

    looks   appearance of the box when the model saw it
    points  [n, 2] now; `chosen` [n, 2] the same when they were chosen, in `chosen_box`
    shift   of the box's centre in the last step: where the next search begins
    begun   how many points were chosen
    scale   of the box against `chosen_box`
    patch   grey picture of a box of 2 x `patch_half`; None: too plain, or cut by the frame's edge
    """

    box: Floats
    looks: npt.NDArray[np.float32]
    chosen_box: Floats
    points: Points
    chosen: Points
    patch_half: Floats
    shift: Floats
    patch: Frame | None = None
    begun: int = 0
    scale: float = 1.0


def shrink(frame: Frame, side: int = SIDE) -> Small:
    """A frame with at most `side` pixels on its longer side."""
    cv2 = require("cv2", "cpu")
    height, width = frame.shape[:2]
    factor = min(1.0, side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size == (width, height):
        small = frame.copy()  # whose memory the source may use again
    else:
        small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 2 or small.shape[2] == 1:
        grey = small.reshape(small.shape[:2])
        bgr = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    else:
        bgr = small[..., :3]
        grey = cv2.cvtColor(np.ascontiguousarray(bgr), cv2.COLOR_BGR2GRAY)
    return Small(cv2.GaussianBlur(grey, (0, 0), BLUR), bgr, (size[0] / width, size[1] / height))


def hold(small: Small, box: Floats) -> Held:
    """Begin to carry a box of this frame, which has colour."""
    assert small.bgr is not None
    held = Held(
        box, appearance(small.bgr, box), box, _no_points(), _no_points(), np.zeros(2), np.zeros(2)
    )
    choose(held, small)
    return held


def choose(held: Held, small: Small) -> None:
    """Choose the points, and keep the picture, of a box where it is now."""
    _choose_points(held, small.grey)
    held.patch, held.patch_half = _cut(small.grey, held.box), (held.box[2:] - held.box[:2]) / 2


def follow(items: list[Held], before: Small, after: Small) -> list[Fate]:
    """Carry boxes of the frame `before` into the frame `after`; says what became of each."""
    if not items:
        return []
    starts = np.concatenate([item.points for item in items])
    shifts = np.concatenate([np.repeat(item.shift[None], len(item.points), 0) for item in items])
    ends, good = _flow(before.grey, after.grey, starts, shifts.astype(np.float32))
    fates: list[Fate] = []
    at = 0
    for item in items:
        mine = slice(at, at + len(item.points))
        at = mine.stop
        fates.append(_carry(item, ends[mine], good[mine], after))
    return fates


def find_again(held: Held, after: Small) -> bool:
    """Look for a box that was lost from sight near its last place; True: it is carried again."""
    before = held.box
    box = _search(held, after.grey)
    if box is None:
        return False
    held.box = box
    if _likeness(held, after) < MIN_LIKENESS:
        held.box = before
        return False
    _choose_points(held, after.grey)
    held.shift = np.zeros(2)
    return True


def visible_share(box: Floats, grey: Frame) -> float:
    """How much of a box lies in the frame, 0..1."""
    inside = np.clip(box, 0, (grey.shape[1], grey.shape[0]) * 2)
    width, height = (box[2:] - box[:2]).tolist()
    seen_width, seen_height = np.maximum(inside[2:] - inside[:2], 0).tolist()
    return float(seen_width * seen_height / max(1e-9, width * height))


def _carry(held: Held, ends: Points, good: npt.NDArray[np.bool_], after: Small) -> Fate:
    before = held.box
    held.points, held.chosen = ends[good], held.chosen[good]
    found = _fit(held)
    if not found:
        box = _search(held, after.grey)
        if box is not None:
            held.box, found = box, True
            _choose_points(held, after.grey)
    share = visible_share(held.box, after.grey)
    if share < LEFT_SHARE:
        return "left"
    likeness = _likeness(held, after) if found else 0.0
    if likeness < MIN_LIKENESS:
        held.box = before  # the place to look for it again
        going = visible_share(before + np.tile(held.shift, 2) * LEAVING_STEPS, after.grey)
        return "left" if share < LEAVING_SHARE or going < LEFT_SHARE else "failed"
    held.shift = ((held.box - before)[:2] + (held.box - before)[2:]) / 2
    if len(held.points) < held.begun // 2 and likeness >= SURE_LIKENESS:
        choose(held, after)
    return "followed"


def _fit(held: Held) -> bool:
    """Move the box by the medians of its points, and drop those that moved otherwise."""
    for _ in range(2):  # the second time without the points that moved otherwise
        if len(held.points) < MIN_POINTS:
            return False
        middle = _middle(held.chosen_box)
        scale = _scale(held.chosen, held.points)
        arms = scale * (held.chosen - middle)
        centre = np.median(held.points - arms, axis=0)
        residuals = np.linalg.norm(held.points - arms - centre, axis=1)
        diagonal = scale * float(np.linalg.norm(held.chosen_box[2:] - held.chosen_box[:2]))
        agree = residuals <= max(MIN_RESIDUAL, MAX_RESIDUAL * diagonal)
        held.points, held.chosen = held.points[agree], held.chosen[agree]
    if len(held.points) < MIN_POINTS:
        return False
    half = scale * (held.chosen_box[2:] - held.chosen_box[:2]) / 2
    step = scale / held.scale
    if not 1 / MAX_STEP_SCALE <= step <= MAX_STEP_SCALE or min(half) * 2 < MIN_SIDE:
        return False
    if not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        return False
    held.box, held.scale = np.concatenate([centre - half, centre + half]) + 0.5, scale
    return True


def _search(held: Held, grey: Frame) -> Floats | None:
    """The box where its picture is found near the last place; None where it is not."""
    cv2 = require("cv2", "cpu")
    if held.patch is None:
        return None
    height, width = grey.shape
    rows, columns = held.patch.shape
    corner = np.round((held.box[:2] + held.box[2:] - [columns, rows]) / 2).astype(int)
    x1, y1 = np.maximum(corner - SEARCH, 0)
    x2, y2 = np.minimum(corner + np.array([columns, rows]) + SEARCH, (width, height))
    if x2 - x1 < columns or y2 - y1 < rows:
        return None
    scores = cv2.matchTemplate(grey[y1:y2, x1:x2], held.patch, cv2.TM_CCOEFF_NORMED)
    _, best, _, place = cv2.minMaxLoc(scores)
    if not best >= MIN_NCC:
        return None
    centre = np.array([x1 + place[0] + columns / 2, y1 + place[1] + rows / 2])
    return np.concatenate([centre - held.patch_half, centre + held.patch_half])


def _likeness(held: Held, after: Small) -> float:
    """How much the box looks like what the model saw; 1 where the frame's colours are not kept."""
    if after.bgr is None:
        return 1.0
    return alike(appearance(after.bgr, held.box), held.looks)


def _flow(
    before: Frame, after: Frame, starts: Points, shifts: Points
) -> tuple[Points, npt.NDArray[np.bool_]]:
    """Where points [n, 2] go that are expected to shift so, and which of them come back."""
    cv2 = require("cv2", "cpu")
    if not len(starts):
        return starts, np.zeros(0, np.bool_)
    options = {"winSize": WINDOW, "maxLevel": LEVELS, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    # The guess is written over: it must be a copy.
    ends, there, _ = cv2.calcOpticalFlowPyrLK(before, after, starts, starts + shifts, **options)
    backs, back, _ = cv2.calcOpticalFlowPyrLK(after, before, ends, ends - shifts, **options)
    error = np.linalg.norm(starts - backs, axis=1)
    inside = ((ends >= 0) & (ends <= (after.shape[1] - 1, after.shape[0] - 1))).all(1)
    good = (there.ravel() == 1) & (back.ravel() == 1) & (error < MAX_BACKWARD) & inside
    return ends, good


def _choose_points(held: Held, grey: Frame) -> None:
    held.points = _corners(grey, held.box)
    held.chosen, held.chosen_box = held.points, held.box
    held.begun, held.scale = len(held.points), 1.0


def _corners(grey: Frame, box: Floats) -> Points:
    """Up to MAX_POINTS corners [n, 2] in the ellipse of a box; a grid where there are few."""
    cv2 = require("cv2", "cpu")
    height, width = grey.shape
    x1, y1 = np.clip(np.floor(box[:2]), 0, (width, height)).astype(int)
    x2, y2 = np.clip(np.ceil(box[2:]), 0, (width, height)).astype(int)
    if x2 - x1 < MIN_SIDE or y2 - y1 < MIN_SIDE:
        return _no_points()
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    middle = ((box[0] + box[2]) / 2 - x1, (box[1] + box[3]) / 2 - y1)
    cv2.ellipse(mask, (middle, (box[2] - box[0], box[3] - box[1]), 0.0), 255, -1)
    apart = max(2.0, min(mask.shape) / 12)
    corners = cv2.goodFeaturesToTrack(
        grey[y1:y2, x1:x2], MAX_POINTS, QUALITY, apart, mask=mask, blockSize=5
    )
    found = _no_points() if corners is None else corners.reshape(-1, 2)
    if len(found) < MAX_POINTS // 3:
        across = (np.arange(GRID) + 0.5) / GRID * 0.7 + 0.15
        grid = np.stack(np.meshgrid(across, across), -1).reshape(-1, 2)
        found = np.concatenate([found, grid * [x2 - x1 - 1, y2 - y1 - 1]])
    return np.ascontiguousarray(found + np.array([x1, y1]), np.float32)


def _cut(grey: Frame, box: Floats) -> Frame | None:
    """The picture of a box; None where it is cut by the frame's edge, or plain."""
    x1, y1, x2, y2 = np.round(box).astype(int)
    if x1 < 0 or y1 < 0 or x2 > grey.shape[1] or y2 > grey.shape[0] or min(x2 - x1, y2 - y1) < 3:
        return None
    patch = grey[y1:y2, x1:x2]
    return patch.copy() if float(patch.std()) >= MIN_CONTRAST else None


def _scale(chosen: Points, now: Points) -> float:
    """The median growth of the distances between points, of those that are well apart."""
    first, second = _pairs(len(chosen))
    then = np.linalg.norm(chosen[first] - chosen[second], axis=1)
    since = np.linalg.norm(now[first] - now[second], axis=1)
    wide = then >= max(2.0, float(np.median(then)))
    return float(np.median(since[wide] / then[wide])) if wide.any() else 1.0


@lru_cache(maxsize=MAX_POINTS + GRID * GRID)
def _pairs(count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    first, second = np.triu_indices(count, 1)
    return first, second


def _middle(box: Floats) -> Floats:
    """The centre of a box, where a point at a pixel's centre has whole coordinates."""
    middle: Floats = (box[:2] + box[2:]) / 2 - 0.5
    return middle


def _no_points() -> Points:
    return np.zeros((0, 2), np.float32)
