"""One opened capture and the thread that reads it.

The thread releases the capture itself: OpenCV does not survive a release under a read. So a read
that hangs in a driver is left to itself: it is told to stop, and ends when the driver returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from edge_mm_runtime.errors import ImageError, SourceError

FAILED_READS = 5  # in a row: the camera is gone, the video at its end. Fewer: undecodable
AFTER_FAILURE_S = 0.01  # a read that fails returns at once, again and again


class Capture(Protocol):
    """cv2.VideoCapture, or what stands for one.

    read  a frame, a pair (frame, depth) or a Grab. May raise: SourceEnded, there is no more;
          ImageError, this frame cannot be used; anything else, the connection is lost
    """

    def read(self) -> tuple[bool, Any]: ...

    def release(self) -> None: ...


# Opens a capture. The event is set when nobody waits for its frames any more: a capture that
# waits by itself (see recorded.Player) waits for that.
OpenCapture = Callable[[threading.Event], Capture]


class Receiver(Protocol):
    """Who gets what a connection reads; called from its thread."""

    def take(self, connection: Connection, item: Any) -> None:
        """A frame came; raises ImageError if it cannot be used."""

    def corrupt(self, connection: Connection, why: str, count: int) -> None:
        """Frames came that cannot be used."""

    def lost(self, connection: Connection, error: Exception) -> None:
        """The connection has ended by itself."""


class Connection:
    """A capture and its thread.

    frames   how many good ones came; written by the receiver, as are
    since_s  when the last one came or, before the first, when it was begun
    broken   why it has ended by itself
    """

    def __init__(
        self, open_capture: OpenCapture, name: str, receiver: Receiver, since_s: float
    ) -> None:
        self.stop = threading.Event()
        self.frames = 0
        self.since_s = since_s
        self.broken: Exception | None = None
        self._open = open_capture
        self._receiver = receiver
        self._capture: Capture | None = None
        self._thread = threading.Thread(target=self._run, name=f"read {name}", daemon=True)

    def open(self) -> None:
        """Open the capture in this thread, so that an error is the caller's; then `start`."""
        self._capture = self._open(self.stop)

    def start(self) -> None:
        """Begin to read; opens first, where that was not done."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end; False: it hangs in the driver."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            if self._capture is None:
                self.open()
            if self._capture is not None:
                self._read(self._capture)
        except Exception as error:  # whatever a driver or an iterable raises: not the program's end
            self._receiver.lost(self, error)
        finally:
            if self._capture is not None:
                self._capture.release()

    def _read(self, capture: Capture) -> None:
        failed = 0
        while not self.stop.is_set():
            try:
                done, item = capture.read()
                if done:
                    self._receiver.take(self, item)
                    if failed:
                        self._receiver.corrupt(self, "OpenCV cannot decode it", failed)
                    failed = 0
                    continue
                failed += 1
                if failed == FAILED_READS:
                    raise SourceError("its reads fail, as if it were unplugged")
            except ImageError as error:
                self._receiver.corrupt(self, str(error), 1)
            self.stop.wait(AFTER_FAILURE_S)
