"""What goes wrong with a camera: recognised, counted, and told once.

stall       no frame for a time                  the camera is opened again
unplug      its reads fail                       the camera is opened again
corrupt     a frame that cannot be used          it is skipped
black       dark and without contrast, for a time (lens cap, dead sensor): still given
resolution  frames have another size from now on: still given

Each is one line in the log when it begins and one when it is over, never one a frame. Times come
from outside, so that a test can make them up.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

from edge_mm_runtime.image import Frame

log = logging.getLogger(__name__)

Outage = Literal["stall", "unplug"]
OUTAGES: tuple[Outage, ...] = ("stall", "unplug")

BLACK_S = 2.0  # shorter: a flash of black in a film, a cut, an exposure that settles
BLACK_MEAN = 10.0  # of 255. A dark room lies there as well, but
BLACK_DEVIATION = 4.0  # has more contrast than a covered sensor's noise of 1 to 3
CALM_S = 5.0  # a fault that comes and goes is over when it stayed away for so long
SAMPLES = 64  # pixels of a row and of a column that are looked at


class Health:
    """The faults of one source; not thread-safe, its owner holds a lock."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.last_corrupt = ""  # why the last frame that was skipped could not be used
        self._clock = clock
        self._began: dict[str, float] = {}  # faults that are not over
        self._last: dict[str, float] = {}
        self._size: tuple[int, int] | None = None
        self._dark_since: float | None = None

    def frame(self, frame: Frame, time_s: float | None) -> None:
        """Look at a frame that can be used.

        time_s  on any clock; None: a picture by itself, which may have any size and be black
        """
        for outage in OUTAGES:
            self._end(outage, "frames come again")
        for kind, gone in (("corrupt", "frames are whole again"), ("resolution", "")):
            if self._clock() - self._last.get(kind, 0.0) > CALM_S:
                self._end(kind, gone)
        if time_s is not None:
            self._look_for_change(frame)
            self._look_for_black(frame, time_s)

    def corrupt(self, why: str, count: int = 1) -> None:
        """Count frames that could not be used."""
        self.last_corrupt = why
        self._begin("corrupt", "skips a frame that cannot be used: %s", why, count=count)

    def outage(self, kind: Outage, why: str) -> None:
        """Say that frames have ceased; an outage that goes on is counted once."""
        if not any(name in self._began for name in OUTAGES):
            self._begin(kind, "%s", why)

    def trouble(self) -> str:
        """What is wrong now, for an error message: ", stall for 3.1 s"; empty: nothing."""
        return "".join(
            f", {kind} for {self._clock() - self._began[kind]:.1f} s"
            for kind in (*OUTAGES, "corrupt", "black")
            if kind in self._began
        )

    def _look_for_change(self, frame: Frame) -> None:
        size = (frame.shape[1], frame.shape[0])
        if self._size is not None and self._size != size:
            self._begin("resolution", "frames were %d x %d and are %d x %d now", *self._size, *size)
        self._size = size

    def _look_for_black(self, frame: Frame, time_s: float) -> None:
        if not is_black(frame):
            self._dark_since = None
            self._end("black", "frames are no longer black")
            return
        if self._dark_since is None:
            self._dark_since = time_s
        if "black" not in self._began and time_s - self._dark_since >= BLACK_S:
            self._begin("black", "frames are black: is the lens covered?")

    def _begin(self, kind: str, message: str, *values: object, count: int = 1) -> None:
        self.counts[kind] += count
        now = self._last[kind] = self._clock()
        if kind not in self._began:
            self._began[kind] = now
            log.warning("%s: " + message, self.name, *values)

    def _end(self, kind: str, message: str) -> None:
        began = self._began.pop(kind, None)
        if began is not None and message:
            # A warning as well: who was told of the fault wants to know that it is over.
            log.warning("%s: %s, after %.1f s", self.name, message, self._clock() - began)


def is_black(frame: Frame) -> bool:
    """Whether a frame is dark and has no contrast, judged by a grid of its pixels."""
    step_y, step_x = (max(1, side // SAMPLES) for side in frame.shape[:2])
    sample = frame[::step_y, ::step_x]
    if sample.ndim == 3:
        sample = sample[..., :3]
    return bool(sample.mean() < BLACK_MEAN and sample.std() < BLACK_DEVIATION)
