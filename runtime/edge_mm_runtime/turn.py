"""One question at a time: whose turn it is, and when its answer must end.

A session's cache holds one answer in the making, so a second question is refused, never mixed in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edge_mm_runtime.answer import FinishReason
from edge_mm_runtime.errors import UsageError


class Interrupt:
    """Called between two passes: why the answer must end now, or None. Once said, it stays so."""

    def __init__(self, timeout_s: float | None, *cancels: threading.Event | None) -> None:
        self._deadline_s = None if timeout_s is None else time.perf_counter() + timeout_s
        self._cancels = [event for event in cancels if event is not None]
        self._reason: FinishReason | None = None

    def __call__(self) -> FinishReason | None:
        """ "cancelled", "timeout" or None."""
        if self._reason is None and any(event.is_set() for event in self._cancels):
            self._reason = "cancelled"
        late = self._deadline_s is not None and time.perf_counter() >= self._deadline_s
        if self._reason is None and late:
            self._reason = "timeout"
        return self._reason


class Turns:
    """Hands out turns, one at a time; safe to use from any thread."""

    def __init__(self) -> None:
        self._taken = threading.Lock()  # a question is open
        self._working = threading.Lock()  # and is being worked at: not while a stream waits
        self._cancelled: threading.Event | None = None  # of the question that is open
        self._closed = False

    @contextmanager
    def take(
        self, timeout_s: float | None, cancel: threading.Event | None = None
    ) -> Iterator[Interrupt]:
        """A turn, for the time of a question. UsageError where another one has it."""
        if not self._taken.acquire(blocking=False):
            raise UsageError(
                "this session is answering another question: wait for it, read or close its "
                "stream, cancel() it, or open a Session for each thread"
            )
        try:
            with self._working:
                if self._closed:
                    raise UsageError("this session is closed: open another one")
                self._cancelled = threading.Event()
                yield Interrupt(timeout_s, self._cancelled, cancel)
        finally:
            self._cancelled = None
            self._taken.release()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside a turn: nothing is worked at, for as long as a reader of a stream takes."""
        self._working.release()
        try:
            yield
        finally:
            self._working.acquire()

    def cancel(self) -> None:
        """End the question that is open, if there is one, at its next pass."""
        cancelled = self._cancelled
        if cancelled is not None:
            cancelled.set()

    @contextmanager
    def close(self) -> Iterator[None]:
        """Cancel the question that is open, wait until nothing is worked at, give no more turns."""
        self.cancel()
        with self._working:
            self._closed = True
            yield
