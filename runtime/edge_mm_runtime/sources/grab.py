"""What every source has in common: a frame with its time, counts, and how it is read."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import msgspec

from edge_mm_runtime.errors import SourceEnded, UsageError
from edge_mm_runtime.image import Frame, check_frame
from edge_mm_runtime.sources.faults import Health
from edge_mm_runtime.space import Depth, Intrinsics, check_depth

FPS_WINDOW_S = 5.0  # the measured rate is that of the last seconds

SourceType = TypeVar("SourceType", bound="Source")


class Grab(NamedTuple):
    """One frame.

    timestamp_s  live: when it came, on time.monotonic's clock; video file: its position in
                 seconds; pictures and iterables: index / frames_per_s where that was given
    frame_id     counts from 0; a picture's is its file name. Of a live source it counts what
                 came, so a gap shows what was dropped
    depth        aligned to the frame: uint16 millimetres or float metres (see space.py)
    """

    frame: Frame
    timestamp_s: float | None
    frame_id: int | str
    depth: Depth | None = None


class SourceStats(msgspec.Struct, frozen=True):
    """What has happened so far: captured == given + dropped, and at most one that is waiting.

    captured    frames that could be used; one that could not is a fault of kind "corrupt"
    dropped     never given, because a newer one came before anybody asked
    fps         captured a second, measured over the last seconds; None: none came
    reconnects  how often a lost camera came back
    faults      how often: stall | unplug | corrupt | black | resolution
    """

    captured: int
    given: int
    dropped: int
    fps: float | None
    reconnects: int
    faults: dict[str, int]


class Source:
    """An opened source: a context manager and an iterator of Grab.

    live          frames come by themselves at their own pace: iterating gives the newest one
    frames_per_s  what the file or driver says; None: it does not. Measured: stats().fps
    intrinsics    of the camera, where they were given
    """

    live = False

    def __init__(
        self, name: str, frames_per_s: float | None = None, intrinsics: Intrinsics | None = None
    ) -> None:
        self.name = name
        self.frames_per_s = frames_per_s
        self.intrinsics = intrinsics
        self._tally = Tally()
        self._health = Health(name)

    def read(self, timeout_s: float | None = None) -> Grab:
        """Give the next frame that was not given yet.

        timeout_s  of a live source, None: wait until there is one. Files do not wait
        Raises SourceEnded after the last one, SourceError when the source has failed.
        """
        raise NotImplementedError

    def read_latest(self, max_age_s: float) -> Grab:
        """Give the newest frame of a live source at once, even if it was given before.

        SourceError if there is none, or it came longer than `max_age_s` ago.
        """
        raise UsageError(f"{self.name} is not live, it has no newest frame: use read()")

    def stats(self) -> SourceStats:
        """Counts up to now."""
        return self._tally.snapshot(self._health)

    def close(self) -> None:
        """Release the device or file and end the threads; the next read raises SourceEnded."""
        raise NotImplementedError

    def __iter__(self: SourceType) -> SourceType:
        return self

    def __next__(self) -> Grab:
        try:
            return self.read()
        except SourceEnded:
            raise StopIteration from None

    def __enter__(self: SourceType) -> SourceType:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Tally:
    """Counts of one source, and its measured rate."""

    def __init__(self) -> None:
        self.captured = self.given = self.dropped = self.reconnects = 0
        self._times: deque[float] = deque()

    def capture(self, now_s: float) -> None:
        """Count a frame that came at `now_s`, time.monotonic's clock."""
        self.captured += 1
        self._times.append(now_s)
        self._forget(now_s)

    def snapshot(self, health: Health) -> SourceStats:
        """All of it, with the faults that `health` has counted."""
        self._forget(time.monotonic())
        span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        return SourceStats(
            captured=self.captured,
            given=self.given,
            dropped=self.dropped,
            fps=(len(self._times) - 1) / span if span > 0 else None,
            reconnects=self.reconnects,
            faults=dict(health.counts),
        )

    def _forget(self, now_s: float) -> None:
        while self._times and self._times[0] < now_s - FPS_WINDOW_S:
            self._times.popleft()


def as_grab(item: Any, frame_id: int | str, timestamp_s: float | None) -> Grab:
    """Make a Grab of a frame, a pair (frame, depth) or a Grab; what a Grab says itself stays.

    Raises ImageError for what is no frame, or a depth that does not fit it.
    """
    if isinstance(item, Grab):
        grab = item if item.timestamp_s is not None else item._replace(timestamp_s=timestamp_s)
    elif isinstance(item, tuple) and len(item) == 2:
        grab = Grab(item[0], timestamp_s, frame_id, item[1])
    else:
        grab = Grab(item, timestamp_s, frame_id)
    check_frame(grab.frame)
    if grab.depth is not None:
        check_depth(grab.depth, grab.frame.shape[1], grab.frame.shape[0])
    return grab
