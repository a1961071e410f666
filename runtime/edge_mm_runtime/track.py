"""One object through time, and the memory of those that were lost.

What is found anew and was lost a moment ago is the same thing again, if it looks the same, its
label may be that thing's, and it could have come from where that was last: then its new track has
the id that it had. Only what is out of the tracks is remembered, so of two things that look alike
and are in view each keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.follow import Floats, Held
from edge_mm_runtime.matching import SAME_LOOK, alike, assign, may_be

State = Literal["tracked", "uncertain", "lost"]

REMEMBERED_S = 10.0  # a lost track may come back
REMEMBERED = 16  # of them at most, those that were lost last
# How far a thing may have gone meanwhile: its own width and height, and this of the frame's a
# second, by itself or because the camera turned
SPEED = 0.25
MAX_GROWTH = 2.0  # of its side (the root of its area), either way


@dataclass
class Track:
    """One object through time.

    item    as an answer last found it; its places are those of that frame
    age     frames since it began
    found   answers that found it; missed: answers since that did not
    seen_s  when it was last followed into a frame
    """

    id: int
    item: GroundedObject
    held: Held
    state: State = "tracked"
    age: int = 0
    found: int = 1
    missed: int = 0
    seen_s: float = 0.0


class Lost(NamedTuple):
    """What is remembered of a track; its last box in shares of the frame."""

    id: int
    label: str
    looks: npt.NDArray[np.float32]
    box: Floats
    seen_s: float
    lost_s: float


class Memory:
    """Tracks that were lost: the REMEMBERED last ones, for REMEMBERED_S."""

    def __init__(self) -> None:
        self._lost: list[Lost] = []

    def __len__(self) -> int:
        return len(self._lost)

    def keep(self, track: Track, frame: Floats, now_s: float) -> None:
        """Remember a track that is lost now; frame: width and height, in pixels of its box."""
        held, box = track.held, track.held.box / np.tile(frame, 2)
        one = Lost(track.id, track.item.label, held.looks, box, track.seen_s, now_s)
        self._lost = [*self._lost, one][-REMEMBERED:]

    def forget(self, now_s: float) -> None:
        """Drop what was lost too long ago."""
        self._lost = [one for one in self._lost if now_s - one.lost_s <= REMEMBERED_S]

    def recall(
        self, objects: Sequence[tuple[GroundedObject, Held]], frame: Floats, now_s: float
    ) -> dict[int, int]:
        """The objects that were lost, by their index, and their ids, which it remembers no more.

        frame  width and height, in pixels of the objects' boxes
        """
        self.forget(now_s)
        costs = np.full((len(objects), len(self._lost)), np.inf)
        for row, (item, held) in enumerate(objects):
            for column, one in enumerate(self._lost):
                look = alike(held.looks, one.looks)
                way = _way(one.box, held.box / np.tile(frame, 2), now_s - one.seen_s)
                if look >= SAME_LOOK and way <= 1 and may_be(item.label, one.label, look):
                    costs[row, column] = (1 - look) + way
        ids = {row: self._lost[column].id for row, column in assign(costs)}
        self._lost = [one for one in self._lost if one.id not in ids.values()]
        return ids


def _way(before: Floats, now: Floats, seconds: float) -> float:
    """The way between two boxes in shares of the frame: 1 is the longest that a thing may go.

    inf where one is too large to be the other.
    """
    sizes = np.maximum([before[2:] - before[:2], now[2:] - now[:2]], 1e-6)
    growth = float(np.sqrt(sizes[1].prod() / sizes[0].prod()))
    if not 1 / MAX_GROWTH <= growth <= MAX_GROWTH:
        return np.inf
    moved = (now[:2] + now[2:] - before[:2] - before[2:]) / 2
    reach = sizes.mean(0) + SPEED * max(0.0, seconds)
    return float(np.linalg.norm(moved / reach))
