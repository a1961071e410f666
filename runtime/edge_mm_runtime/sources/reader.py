"""Frames of a source as they are asked for, so that something else can be waited for meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from queue import SimpleQueue

from edge_mm_runtime.sources.grab import Grab, Source

LAST_FRAME_S = 1.0  # how long a source that is left waits for the frame being read
SOON_S = 0.005  # a frame that is there already is given by then


class Reader:
    """Reads a source in a thread of its own, a frame when one is asked for.

    Nothing is read ahead: what is given is the newest when it is asked for or comes later.
    """

    def __init__(self, source: Source) -> None:
        self._wanted: SimpleQueue[Future[Grab | None] | None] = SimpleQueue()
        self._coming: Future[Grab | None] | None = None
        # A daemon, as a camera's own: a program can end while no frame comes.
        self._thread = threading.Thread(
            target=self._run, args=(iter(source),), name="edge_mm frames", daemon=True
        )
        self._thread.start()

    def coming(self) -> Future[Grab | None]:
        """The next frame: None after the last one, or what the source raises."""
        if self._coming is None:
            self._coming = Future()
            self._wanted.put(self._coming)
        return self._coming

    def arrived(self, late: bool) -> Iterator[Grab]:
        """The frame that has come and, where it was late to be taken, the one that waits by now."""
        for is_last in (not late, True):
            grab = self.coming().result()
            if grab is None:
                break
            self._coming = None
            yield grab
            if is_last or not wait([self.coming()], SOON_S).done:
                break

    def close(self) -> None:
        """End the thread; while no frame comes, it ends with the source."""
        self._wanted.put(None)
        self._thread.join(LAST_FRAME_S)

    def _run(self, frames: Iterator[Grab]) -> None:
        while (wanted := self._wanted.get()) is not None:
            try:
                wanted.set_result(next(frames, None))
            except BaseException as error:  # raised where the frame is waited for
                wanted.set_exception(error)
