"""Sources that wait for their reader: every frame is given, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from edge_mm_runtime.errors import ImageError, SourceEnded, SourceError
from edge_mm_runtime.sources.grab import Grab, Source, as_grab
from edge_mm_runtime.space import Intrinsics

MOST_CORRUPT = 100  # in a row; an iterable that never ends would be skipped for ever


class Frames(Protocol):
    """What is read: `next` gives a Grab, raises StopIteration at the end and ImageError for a
    frame that cannot be used, after which the next one may be good."""

    def __next__(self) -> Grab: ...

    def close(self) -> None: ...


class Recorded(Source):
    """A file, pictures, or an iterable; to be read from one thread.

    A frame that cannot be used is skipped and counted ("corrupt"); SourceError when there was no
    other one, and after a hundred in a row.
    """

    def __init__(
        self,
        frames: Frames,
        name: str,
        frames_per_s: float | None = None,
        intrinsics: Intrinsics | None = None,
    ) -> None:
        super().__init__(name, frames_per_s, intrinsics)
        self._frames = frames
        self._closed = False

    def read(self, timeout_s: float | None = None) -> Grab:
        """Give the next frame; see `Source.read`."""
        for _ in range(MOST_CORRUPT):
            if self._closed:
                raise SourceEnded(f"{self.name} is closed")
            try:
                grab = next(self._frames)
            except StopIteration:
                raise end_of(self.name, self._tally.captured, self._health.last_corrupt) from None
            except ImageError as error:
                self._health.corrupt(str(error))
                continue
            self._tally.capture(time.monotonic())
            self._tally.given += 1
            self._health.frame(grab.frame, grab.timestamp_s)
            return grab
        raise SourceError(
            f"{self.name}: {MOST_CORRUPT} frames in a row cannot be used, the last one: "
            f"{self._health.last_corrupt}"
        )

    def close(self) -> None:
        """Release the file; an iterable that has a `close` is closed."""
        if not self._closed:
            self._closed = True
            self._frames.close()


class IterableFrames:
    """Frames of any Python iterable: arrays, pairs (frame, depth), or Grab."""

    def __init__(self, iterable: Iterable[Any], frames_per_s: float | None) -> None:
        self._items: Iterator[Any] = iter(iterable)
        self._frames_per_s = frames_per_s
        self._index = -1

    def __next__(self) -> Grab:
        item = next(self._items)
        self._index += 1
        time_s = None if self._frames_per_s is None else self._index / self._frames_per_s
        return as_grab(item, self._index, time_s)

    def close(self) -> None:
        """Close a generator, so that what it holds is released."""
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


class Player:
    """Recorded frames as a capture of `Camera`: they come by themselves.

    stop  set when nobody waits any more. paced: a frame comes when it is due, at its own time
          after the first one; a reader that is late does not change the times. Otherwise it comes
          as soon as the iterable gives it.
    """

    def __init__(
        self,
        frames: Frames,
        name: str,
        stop: threading.Event,
        *,
        paced: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._frames = frames
        self._name = name
        self._stop = stop
        self._paced = paced
        self._clock = clock
        self._zero_s: float | None = None  # when a frame of time 0 was due, on the clock

    def read(self) -> tuple[bool, Any]:
        """Wait for the next frame; SourceEnded after the last one."""
        try:
            grab = next(self._frames)
        except StopIteration:
            raise SourceEnded(f"{self._name} has ended") from None
        if not self._paced or grab.timestamp_s is None:
            return True, grab
        if self._zero_s is None:
            self._zero_s = self._clock() - grab.timestamp_s
        self._stop.wait(max(0.0, self._zero_s + grab.timestamp_s - self._clock()))
        return True, grab._replace(timestamp_s=None)  # the camera notes when it came

    def release(self) -> None:
        """Close what is played."""
        self._frames.close()


def end_of(name: str, captured: int, last_corrupt: str) -> SourceError:
    """What to raise at the end: SourceEnded, or SourceError when no frame could be used."""
    if captured:
        return SourceEnded(f"{name} has ended")
    return SourceError(last_corrupt or f"{name} has no frame that can be read")
