"""Tracks: the model's objects, carried through every frame, each with an id that stays.

    tracker = Tracker()
    tracker.see(frame)          every frame of the stream, in order
    tracker.mark()              the model is being asked about the frame seen last
    tracker.ground(objects)     its answer about the marked frame, however many frames later

An answer's boxes are carried through the frames since (follow.py) and matched with the tracks there
(matching.py). A track begins with the answer that first finds it, and is

    tracked    followed into the frame seen last
    uncertain  it could not be followed: its place is unknown until an answer finds it again, or
               until its picture comes back where it was last seen (it was only covered)
    lost       it left the frame, or the answers do not find it any more: 3 of them in a row, 2 of
               an uncertain one, and in any case as many as ever found it: what a single answer
               made up is gone with the next one

A lost track is remembered for some seconds: an answer that finds the thing again gives it back its
id (track.py). No two things have the same id in a frame, and a new thing's id is a new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.confidence import iou
from edge_mm_runtime.follow import (
    Fate,
    Floats,
    Held,
    Small,
    choose,
    find_again,
    follow,
    hold,
    shrink,
)
from edge_mm_runtime.image import Frame, check_frame
from edge_mm_runtime.matching import SAME_LOOK, alike, match, may_be, same_label
from edge_mm_runtime.track import Memory, State, Track

# Answers in a row that do not find a track, and it is lost; no more than ever found it
MISSES: dict[State, int] = {"tracked": 3, "uncertain": 2}
BUFFER = 64  # frames kept for the answer that is being made; then every second one is, 5 MB
MAX_STEPS = 12  # in which an answer's boxes are carried to now, so that the camera is kept up with
MIN_GAIN = 0.5  # weight of the model's box against the tracked one, once many answers agree
TWIN_IOU = 0.8  # two objects of one answer with the same label are one
POINT_SIDE = 0.12  # of the frame's shorter side: the box that is carried for a bare point
FRAME_S = 1 / 30  # between two frames that have no time


class Grounded(NamedTuple):
    """What became of an answer.

    ids       the track of each of its objects, a new one or one that was known or is remembered;
              None: it could not be carried to now
    lost      ids of tracks that are lost since it did not find them either
    unplaced  an object is in no track, and did not leave the frame: nobody knows where it is
    """

    ids: list[int | None]
    lost: tuple[int, ...]
    unplaced: bool


class Tracker:
    """Carries objects from frame to frame between the model's answers; for one thread."""

    def __init__(self) -> None:
        self.tracks: list[Track] = []  # not lost, in the order of their ids
        self.memory = Memory()
        self._next_id = 1
        self._now_s = 0.0
        self._size = (0, 0)
        self._now: Small | None = None
        self._marked: Small | None = None
        self._since: list[Small] = []  # the frames after the marked one, without colours

    def see(self, frame: Frame, time_s: float | None = None) -> tuple[int, ...]:
        """Carry every track into the next frame of the stream; ids that were lost in it.

        time_s  of the frame, on any clock; None: FRAME_S after the one before
        Raises ImageError for what is no frame.
        """
        check_frame(frame)
        self._now_s = self._now_s + FRAME_S if time_s is None else time_s
        self.memory.forget(self._now_s)
        before, self._now = self._now, shrink(frame)
        size = (frame.shape[1], frame.shape[0])
        if before is not None and size != self._size:  # another picture: nothing can be carried
            for track in self.tracks:
                track.state, track.held.patch = "uncertain", None
            self._forget()
            before = None
        self._size = size
        if self._marked is not None:
            if len(self._since) == BUFFER:
                self._since = self._since[1::2]
            self._since.append(self._now._replace(bgr=None))
        for track in self.tracks:
            track.age += 1
        if before is None:
            return ()
        return self._follow(before, self._now)

    def mark(self) -> None:
        """The model is asked about the frame seen last; `ground` takes its answer."""
        assert self._now is not None, "see a frame first"
        self._forget()
        self._marked = self._now

    @property
    def marked(self) -> bool:
        """Whether there is a frame that was asked about, of the size of the frame seen last."""
        return self._marked is not None

    def ground(self, objects: Sequence[GroundedObject], *, whole: bool = True) -> Grounded:
        """Take the answer about the marked frame.

        whole  the answer was not cut short, so what it does not name was not found
        """
        asked = self._marked
        if asked is None or self._now is None:
            return Grounded([None] * len(objects), (), bool(objects))
        twins = _twins(objects)
        named = [objects[index] for index in sorted(set(twins))]
        items = [hold(asked, self._carried_box(item, asked)) for item in named]
        fates = self._catch_up(items, asked)
        ids: list[int | None] = [None] * len(named)
        known = {track.id for track in self.tracks}
        for index, track in self._matches(named, items, fates):
            self._found(track, named[index], items[index], fates[index])
            ids[index] = track.id
        new = [k for k, fate in enumerate(fates) if ids[k] is None and fate == "followed"]
        begun = self._begin([(named[k], items[k]) for k in new])
        for index, track_id in zip(new, begun, strict=True):
            ids[index] = track_id
        self._forget()
        lost = self._miss(known - {found for found in ids if found is not None}) if whole else ()
        unplaced = any(
            found is None and fate == "failed" for found, fate in zip(ids, fates, strict=True)
        )
        places = sorted(set(twins))
        return Grounded([ids[places.index(twin)] for twin in twins], lost, unplaced)

    def objects(self) -> tuple[GroundedObject, ...]:
        """What is tracked, in pixels of the frame seen last, in the order of the ids."""
        shown = [self.object(track) for track in self.tracks if track.state == "tracked"]
        return tuple(item for item in shown if item is not None)

    def object(self, track: Track) -> GroundedObject | None:
        """A track's object where it is now; None where nothing of it is in the frame."""
        assert self._now is not None
        scale = np.array(self._now.scale * 2)
        box = track.held.box / scale
        inside = np.clip(box, 0, self._size * 2)
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            return None
        x1, y1, x2, y2 = inside.tolist()
        item = track.item
        point = item.point_xy
        if point is not None:
            share = _share(point, item.box_xyxy)
            x, y = np.clip(box[:2] + share * (box[2:] - box[:2]), 0, self._size).tolist()
            point = (x, y)
        return msgspec.structs.replace(
            item,
            box_xyxy=None if item.box_xyxy is None else (x1, y1, x2, y2),
            point_xy=point,
            track_id=track.id,
            xyz_m=None,  # it was measured where the thing was then
        )

    def _carried_box(self, item: GroundedObject, asked: Small) -> Floats:
        """The box to carry, in pixels of the small frame: a square round a bare point."""
        if item.box_xyxy is not None:
            box = np.array(item.box_xyxy) * (asked.scale * 2)
            centre, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1.0) / 2
            return np.concatenate([centre - half, centre + half])
        assert item.point_xy is not None
        centre = np.array(item.point_xy) * asked.scale
        half = POINT_SIDE * min(asked.grey.shape) / 2
        return np.concatenate([centre - half, centre + half])

    def _follow(self, before: Small, after: Small) -> tuple[int, ...]:
        moving = [track for track in self.tracks if track.state == "tracked"]
        for track in self.tracks:
            if track.state == "uncertain" and find_again(track.held, after):
                track.state, track.seen_s = "tracked", self._now_s
        left = []
        fates = follow([track.held for track in moving], before, after)
        for track, fate in zip(moving, fates, strict=True):
            if fate == "followed":
                track.seen_s = self._now_s
            elif fate == "failed":
                track.state = "uncertain"
            else:
                left.append(track.id)
        return self._lose(left)

    def _catch_up(self, items: list[Held], asked: Small) -> list[Fate]:
        """Carry boxes of the frame that was asked about into the frame seen last."""
        assert self._now is not None
        fates: list[Fate] = ["followed"] * len(items)
        steps = list(self._since)
        if not steps:  # it is the frame seen last
            return fates
        steps[-1] = self._now  # with its colours
        if len(steps) > MAX_STEPS:
            steps = [
                steps[k] for k in np.linspace(0, len(steps) - 1, MAX_STEPS).round().astype(int)
            ]
        before = asked
        for after in steps:
            going = [k for k, fate in enumerate(fates) if fate == "followed"]
            now = follow([items[k] for k in going], before, after)
            for k, fate in zip(going, now, strict=True):
                fates[k] = fate
            before = after
        for item in items:  # from now on it goes frame by frame
            item.shift = item.shift * len(steps) / len(self._since)
        return fates

    def _matches(
        self, objects: Sequence[GroundedObject], items: list[Held], fates: list[Fate]
    ) -> list[tuple[int, Track]]:
        """Objects of an answer and the tracks that they are: by place, then by look alone."""
        placed = [track for track in self.tracks if track.state == "tracked"]
        pairs = match(
            (_boxes(items), _boxes([track.held for track in placed])),
            ([item.looks for item in items], [track.held.looks for track in placed]),
            ([item.label for item in objects], [track.item.label for track in placed]),
        )
        found = [(index, placed[column]) for index, column in pairs]
        free = [track for track in self.tracks if track.state == "uncertain"]
        for index, item in enumerate(objects):
            if index in [pair[0] for pair in found]:
                continue
            looks = [alike(items[index].looks, track.held.looks) for track in free]
            looks = [
                look if may_be(item.label, track.item.label, look) else -1.0
                for look, track in zip(looks, free, strict=True)
            ]
            if looks and max(looks) >= SAME_LOOK:
                found.append((index, free.pop(int(np.argmax(looks)))))
        return found

    def _begin(self, objects: list[tuple[GroundedObject, Held]]) -> list[int]:
        """Begin a track for each of these objects; a thing that was lost has its id again."""
        recalled = self.memory.recall(objects, self._extent(), self._now_s)
        ids = []
        for index, (item, held) in enumerate(objects):
            ids.append(recalled.get(index, self._next_id))
            self._next_id += index not in recalled
            self.tracks.append(Track(ids[-1], item, held, seen_s=self._now_s))
        self.tracks.sort(key=lambda track: track.id)
        return ids

    def _extent(self) -> Floats:
        """Width and height of the small frame."""
        assert self._now is not None
        return np.array(self._now.grey.shape[1::-1], np.float64)

    def _found(self, track: Track, item: GroundedObject, carried: Held, fate: Fate) -> None:
        """An answer found this track again."""
        track.item, track.missed = item, 0
        track.found += 1
        assert self._now is not None
        if fate != "followed":  # the tracker knows better where it is now
            return
        if track.state == "tracked":
            gain = max(1 / track.found, MIN_GAIN)
            carried.box = track.held.box + gain * (carried.box - track.held.box)
            choose(carried, self._now)
        track.held, track.state, track.seen_s = carried, "tracked", self._now_s

    def _forget(self) -> None:
        self._marked, self._since = None, []

    def _miss(self, ids: set[int]) -> tuple[int, ...]:
        """Count a miss for these tracks; the ids that are lost by it."""
        gone = []
        for track in self.tracks:
            if track.id in ids:
                track.missed += 1
                if track.missed >= min(track.found, MISSES[track.state]):
                    gone.append(track.id)
        return self._lose(gone)

    def _lose(self, ids: list[int]) -> tuple[int, ...]:
        for track in self.tracks:
            if track.id in ids:
                track.state = "lost"
                self.memory.keep(track, self._extent(), self._now_s)
        self.tracks = [track for track in self.tracks if track.state != "lost"]
        return tuple(ids)


def _twins(objects: Sequence[GroundedObject]) -> list[int]:
    """For each object of an answer the first one that is the same: steps may name one twice."""
    boxes = np.array([item.box_xyxy or (item.point_xy or ()) * 2 for item in objects])
    first: list[int] = []
    for index, item in enumerate(objects):
        same = [
            first[k]
            for k in range(index)
            if same_label(objects[k].label, item.label)
            and float(iou(boxes[k], boxes[index : index + 1])[0]) >= TWIN_IOU
        ]
        first.append(same[0] if same else index)
    return first


def _boxes(items: Sequence[Held]) -> Floats:
    return np.array([item.box for item in items], np.float64).reshape(-1, 4)


def _share(point: tuple[float, float], box: tuple[float, float, float, float] | None) -> Floats:
    """Where in its box a point lies, 0..1 each way; a bare point is the middle of its square."""
    if box is None:
        return np.array([0.5, 0.5])
    low, high = np.array(box[:2]), np.array(box[2:])
    share: Floats = (np.array(point) - low) / np.maximum(high - low, 1e-9)
    return share
