"""How steady what is shown through time is: one recording against the truth of a sequence.

Per frame a recording has boxes with ids, the truth has the things that were asked for. Boxes and
things are paired as CLEAR MOT does (Bernardin and Stiefelhagen 2008, doi 10.1155/2008/246309): a
pair of the last frame stays while its IoU is MIN_IOU or more, others are assigned at least cost.

A thing counts as in view where half of it is visible, and as gone where it is not in the truth;
in between, nothing is asked of a recording. Pure functions.

iou             mean over all frames in which a thing is in view; 0 where nothing is shown for it
found           share of those frames in which something is shown for it
centre_error    of the shown box, in diagonals of the true one
jitter          change of that error (a vector) from frame to frame, in percent of the diagonal
flicker_per_s   how often a thing in view begins or ceases to be shown, after it was shown once
switches        times that a thing's id is another one than before, while it stayed in view
ids_per_thing   ids that were shown, of things and of nothing, over the things that came into view
false_boxes     shown boxes a frame that are of nothing that was asked for
losses          visits that ended: the thing had been shown, and went out of view
declared        losses whose id is declared lost before the thing is back or the sequence ends
early           of those, declared while the thing was only partly out of view
delay_s         from the last frame with anything of the thing visible to its being declared, median
false_losses    ids that are declared lost while their thing is in view
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from edge_mm.data.tabletop.motion import Sight
from edge_mm.evaluate.judge import iou
from edge_mm_runtime.matching import assign

MIN_IOU = 0.3
IN_VIEW = 0.5  # visible share
EARLY_S = 0.3  # a loss may be declared so long before nothing is visible any more

Box = tuple[float, float, float, float]
Truth = Sequence[Mapping[int, Sight]]


class Shown(NamedTuple):
    """A box that is shown in a frame; id None: the source of it gives none."""

    id: int | None
    box: Box


@dataclass(frozen=True)
class Recording:
    """What was shown in each frame, and the ids declared lost in it."""

    shown: list[list[Shown]]
    lost: list[tuple[int, ...]]


@dataclass
class Tally:
    """Sums over recordings; `figures` makes means of them."""

    frames: int = 0
    seconds_in_view: float = 0.0
    overlaps: list[float] = field(default_factory=list)
    centre_errors: list[float] = field(default_factory=list)
    jumps: list[float] = field(default_factory=list)
    found: int = 0
    changes: int = 0
    switches: int = 0
    ids: int = 0
    things: int = 0
    false_boxes: int = 0
    losses: int = 0
    early: int = 0
    delays_s: list[float] = field(default_factory=list)
    false_losses: int = 0


class TemporalFigures(msgspec.Struct, frozen=True):
    """See the top of this file; None where there was nothing to measure."""

    iou: float | None
    found: float | None
    centre_error: float | None
    jitter: float | None
    flicker_per_s: float | None
    switches: int
    ids_per_thing: float | None
    false_boxes: float
    losses: int
    declared: int
    early: int
    delay_s: float | None
    false_losses: int


def measure(recording: Recording, truth: Truth, frames_per_s: float, *, first: int = 0) -> Tally:
    """Compare a recording with the truth, from frame `first` on (that of the first answer)."""
    tally = Tally(frames=len(truth) - first)
    pairs = _pairs(recording, truth, first)
    things = sorted({thing for sights in truth[first:] for thing in sights})
    for thing in things:
        shown = [frame.get(thing) for frame in pairs]
        _measure_thing(tally, thing, shown, truth[first:], 1 / frames_per_s)
        _measure_losses(tally, thing, shown, recording.lost[first:], truth[first:], frames_per_s)
    for frame, paired in zip(recording.shown[first:], pairs, strict=True):
        tally.false_boxes += len(frame) - len(paired)
    tally.things = len(things)
    tally.ids = len({box.id for frame in recording.shown[first:] for box in frame} - {None})
    return tally


def merged(tallies: Sequence[Tally]) -> Tally:
    """The sums of several recordings."""
    total = Tally()
    for tally in tallies:
        for name, value in vars(tally).items():
            setattr(total, name, getattr(total, name) + value)
    return total


def figures(tally: Tally) -> TemporalFigures:
    """Sums -> figures."""

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    seconds = tally.seconds_in_view
    return TemporalFigures(
        iou=mean(tally.overlaps),
        found=tally.found / len(tally.overlaps) if tally.overlaps else None,
        centre_error=mean(tally.centre_errors),
        jitter=100 * float(np.mean(tally.jumps)) if tally.jumps else None,
        flicker_per_s=tally.changes / seconds if seconds else None,
        switches=tally.switches,
        ids_per_thing=tally.ids / tally.things if tally.things else None,
        false_boxes=tally.false_boxes / max(1, tally.frames),
        losses=tally.losses,
        declared=len(tally.delays_s),
        early=tally.early,
        delay_s=float(np.median(tally.delays_s)) if tally.delays_s else None,
        false_losses=tally.false_losses,
    )


def _pairs(recording: Recording, truth: Truth, first: int) -> list[dict[int, Shown]]:
    """For each frame from `first` on: thing -> the box that is shown for it."""
    found: list[dict[int, Shown]] = []
    before: dict[int, Shown] = {}
    for shown, sights in zip(recording.shown[first:], truth[first:], strict=True):
        paired: dict[int, Shown] = {}
        for thing, last in before.items():
            stays = next((box for box in shown if box.id is not None and box.id == last.id), None)
            if stays and thing in sights and iou(stays.box, sights[thing].box_xyxy) >= MIN_IOU:
                paired[thing] = stays
        things = [thing for thing in sights if thing not in paired]
        boxes = [box for box in shown if box not in paired.values()]
        overlaps = np.array(
            [[iou(box.box, sights[thing].box_xyxy) for box in boxes] for thing in things]
        ).reshape(len(things), len(boxes))
        for row, column in assign(np.where(overlaps >= MIN_IOU, 1 - overlaps, math.inf)):
            paired[things[row]] = boxes[column]
        found.append(paired)
        before = paired
    return found


def _measure_thing(
    tally: Tally, thing: int, shown: Sequence[Shown | None], truth: Truth, frame_s: float
) -> None:
    id_before: int | None = None
    was_found: bool | None = None  # None: not shown yet since it came into view
    error_before: np.ndarray | None = None
    for box, sights in zip(shown, truth, strict=True):
        sight = sights.get(thing)
        if sight is None:
            id_before, was_found, error_before = None, None, None
            continue
        if sight.visible < IN_VIEW:
            error_before = None
            continue
        tally.seconds_in_view += frame_s
        tally.overlaps.append(iou(box.box, sight.box_xyxy) if box else 0.0)
        if was_found is not None and was_found != (box is not None):
            tally.changes += 1
        if box is not None or was_found is not None:
            was_found = box is not None
        if box is None:
            error_before = None
            continue
        tally.found += 1
        error = _centre_error(box.box, sight.box_xyxy)
        tally.centre_errors.append(float(np.linalg.norm(error)))
        if error_before is not None:
            tally.jumps.append(float(np.linalg.norm(error - error_before)))
        error_before = error
        if box.id is not None:
            tally.switches += id_before is not None and id_before != box.id
            id_before = box.id


def _measure_losses(
    tally: Tally,
    thing: int,
    shown: Sequence[Shown | None],
    lost: Sequence[tuple[int, ...]],
    truth: Truth,
    frames_per_s: float,
) -> None:
    """Each visit of a thing, and whether its last id was declared lost when it ended."""
    last_id: int | None = None
    seen_at: int | None = None  # the last frame with anything of it
    waiting = False  # it is gone, and its id not declared lost
    for number, (box, gone, sights) in enumerate(zip(shown, lost, truth, strict=True)):
        sight = sights.get(thing)
        if box is not None and box.id is not None:
            last_id = box.id
        if sight is None:
            if seen_at is not None and last_id is not None and not waiting:
                waiting = True
                tally.losses += 1
            if waiting and seen_at is not None and last_id in gone:
                tally.delays_s.append((number - seen_at) / frames_per_s)
                last_id, seen_at, waiting = None, None, False
            continue
        if waiting:  # it is back, and nobody had said that it was gone
            waiting, last_id = False, box.id if box else None
        seen_at = number
        if last_id is not None and last_id in gone:
            if _leaves(thing, truth[number:], round(EARLY_S * frames_per_s)):
                tally.losses += 1
                tally.early += 1
                tally.delays_s.append(0.0)
            elif sight.visible >= IN_VIEW:
                tally.false_losses += 1
            last_id = None


def _leaves(thing: int, truth: Truth, frames: int) -> bool:
    """Whether a thing is going: gone in so many frames, or before half of it is visible again."""
    for number, sights in enumerate(truth):
        sight = sights.get(thing)
        if sight is None:
            return True
        if sight.visible >= IN_VIEW and number >= frames:
            return False
    return False


def _centre_error(box: Box, true: Box) -> np.ndarray:
    """The way from the true centre to the shown one, in diagonals of the true box."""
    low, high = np.array(true[:2]), np.array(true[2:])
    centre = (np.array(box[:2]) + np.array(box[2:])) / 2
    error: np.ndarray = (centre - (low + high) / 2) / np.linalg.norm(high - low)
    return error
