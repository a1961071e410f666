"""A live source: the newest frame of a camera, whatever happens to the camera.

Two threads: one reads (see connection.py); the keeper notices that frames have ceased, opens the
camera again, and gives up in the end. Whoever reads waits meanwhile and then goes on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from edge_mm_runtime.errors import ImageError, SourceEnded, SourceError, UsageError
from edge_mm_runtime.sources.connection import Connection, OpenCapture
from edge_mm_runtime.sources.grab import Grab, Source, SourceStats, as_grab
from edge_mm_runtime.sources.recorded import end_of
from edge_mm_runtime.space import Intrinsics

log = logging.getLogger(__name__)

CLOSE_S = 5.0  # to wait for a read that is under way
AHEAD_S = 1.0  # that a frame may seem to be of the future
MOST_HUNG = 4  # reads that hang in a driver for ever; no more are begun


class Patience(msgspec.Struct, frozen=True):
    """How long a camera is waited for, seconds.

    stall_s     without a frame: it has stalled. None: it may be silent
    start_s     the same until the first frame: exposure, a stream's first key frame
    retry_s     until it is opened again; doubles with every attempt up to retry_most_s
    give_up_s   without a frame: SourceError. None: never, what a robot wants that has a plan for
                the time without. The default is a minute: enough for a cable to be plugged in
                again or an IP camera to start anew, and a program that nobody watches still ends
                with an error instead of waiting for ever
    """

    stall_s: float | None = 2.0
    start_s: float | None = 10.0
    retry_s: float = 0.5
    retry_most_s: float = 8.0
    give_up_s: float | None = 60.0

    def __post_init__(self) -> None:
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise UsageError(f"{field} is {value}: give a positive number of seconds")


def backoff(patience: Patience) -> Iterator[float]:
    """Seconds before each attempt to open a camera again: doubled each time, up to the most."""
    delay_s = patience.retry_s
    while True:
        yield min(delay_s, patience.retry_most_s)
        delay_s = min(2 * delay_s, patience.retry_most_s)


class Camera(Source):
    """The newest frame of a capture.

    open_capture  opens it, again after a fault; the first time here: its SourceError comes at once
    reopens       False: it cannot be opened twice (an iterable): what ends it ends the source
    """

    live = True

    def __init__(
        self,
        open_capture: OpenCapture,
        name: str,
        *,
        frames_per_s: float | None = None,
        intrinsics: Intrinsics | None = None,
        patience: Patience | None = None,
        reopens: bool = True,
    ) -> None:
        super().__init__(name, frames_per_s, intrinsics)
        self._open_capture = open_capture
        self._patience = patience or Patience()
        self._reopens = reopens
        self._waiting: Grab | None = None  # came, and was not given yet
        self._newest: Grab | None = None
        self._over: SourceError | None = None  # what every further read raises
        self._away = False  # the camera is lost; the next frame shows that it is back
        self._why = ""  # why the last attempt failed
        self._changed = threading.Condition()
        self._alarm = threading.Event()  # something for the keeper
        self._hung: list[Connection] = []
        self._connection = self._connect()
        self._connection.open()
        self._good_s = self._connection.since_s = time.monotonic()
        self._connection.start()
        self._keeper = threading.Thread(target=self._keep, name=f"keep {name}", daemon=True)
        self._keeper.start()

    def read(self, timeout_s: float | None = None) -> Grab:
        """Give the newest frame, once; waits while the camera is away. See `Source.read`."""
        with self._changed:
            self._changed.wait_for(self._has_news, timeout_s)
            if self._waiting is None:
                self._raise_over()
                raise SourceError(
                    f"{self.name} gave no frame within {timeout_s:g} s{self._health.trouble()}"
                )
            return self._give(self._waiting)

    def read_latest(self, max_age_s: float) -> Grab:
        """Give the newest frame at once; see `Source.read_latest`."""
        with self._changed:
            if self._newest is None or self._newest.timestamp_s is None:
                self._raise_over()
                raise SourceError(f"{self.name} has given no frame yet{self._health.trouble()}")
            age_s = time.monotonic() - self._newest.timestamp_s
            if age_s > max_age_s:
                self._raise_over()
                raise SourceError(
                    f"the newest frame of {self.name} is {age_s:.2f} s old, at most "
                    f"{max_age_s:g} s are wanted{self._health.trouble()}"
                )
            return self._give(self._newest)

    def stats(self) -> SourceStats:
        """Counts up to now."""
        with self._changed:
            return super().stats()

    def close(self) -> None:
        """Stop reading and release the device."""
        with self._changed:
            self._end(SourceEnded(f"{self.name} is closed"))
            self._drop_waiting()
            self._newest = None
        self._keeper.join()
        for connection in (self._connection, *self._hung):
            if not connection.join(CLOSE_S):
                log.warning("%s: a read hangs in the driver, its thread is left", self.name)

    # What a connection calls, from its thread.

    def take(self, connection: Connection, item: Any) -> None:
        """Keep the newest frame; ImageError if it cannot be used."""
        now = time.monotonic()
        with self._changed:
            if connection.stop.is_set():
                return
            grab = as_grab(item, self._tally.captured, now)
            if grab.timestamp_s is not None and grab.timestamp_s > now + AHEAD_S:
                raise ImageError(
                    f"its timestamp_s {grab.timestamp_s:.3f} is not of time.monotonic's clock, by "
                    "which a live frame's age is told"
                )
            self._tally.capture(now)
            self._tally.reconnects += self._away
            self._away, self._why = False, ""
            connection.frames += 1
            if connection.frames == 1:
                self._alarm.set()  # from now on silence is a stall sooner
            self._good_s = connection.since_s = now
            self._health.frame(grab.frame, now)
            self._drop_waiting()
            self._waiting = self._newest = grab
            self._changed.notify_all()

    def corrupt(self, connection: Connection, why: str, count: int) -> None:
        """Count frames that cannot be used."""
        with self._changed:
            if not connection.stop.is_set():
                self._health.corrupt(why, count)

    def lost(self, connection: Connection, error: Exception) -> None:
        """Note that a connection has ended by itself."""
        with self._changed:
            if connection.stop.is_set():
                return
            if isinstance(error, SourceEnded):
                corrupt = self._health.last_corrupt
                self._end(end_of(self.name, self._tally.captured, corrupt))
            connection.broken = error
            self._alarm.set()

    # The keeper's thread.

    def _keep(self) -> None:
        """Until the end: wait for an outage, then open again, ever more slowly."""
        delays = backoff(self._patience)
        while True:
            self._alarm.wait(self._rest_s())
            with self._changed:
                self._alarm.clear()
                out = self._is_out()
                if self._over is not None:
                    return
                if not out:
                    continue
                if self._connection.frames:
                    delays = backoff(self._patience)
                self._connection.stop.set()
                delay_s = min(next(delays), self._left_s())
            if not self._alarm.wait(delay_s):  # set: the source is closed
                self._reconnect()

    def _rest_s(self) -> float | None:
        """Seconds until silence is an outage, or too long; None: it never is."""
        connection, patience = self._connection, self._patience
        limit_s = patience.stall_s if connection.frames else patience.start_s
        rest_s = self._left_s()
        if limit_s is not None:
            rest_s = min(rest_s, connection.since_s + limit_s - time.monotonic())
        return None if rest_s == math.inf else max(0.0, rest_s)

    def _left_s(self) -> float:
        """Seconds until it is given up."""
        if self._patience.give_up_s is None:
            return math.inf
        return self._good_s + self._patience.give_up_s - time.monotonic()

    def _is_out(self) -> bool:
        """Whether the camera has to be opened again; an outage without hope ends the source."""
        connection = self._connection
        broken = connection.broken
        if self._over is not None or (broken is None and self._rest_s() != 0.0):
            return False
        silent_s = time.monotonic() - self._good_s
        if broken is None:
            self._health.outage("stall", f"no frame for {silent_s:.1f} s")
        else:
            self._why = str(broken)
            self._health.outage("unplug", self._why)
        if broken is not None and not self._reopens:
            over = SourceError(f"{self.name}: {broken}")
            over.__cause__ = broken
            self._end(over)
        elif self._left_s() <= 0:
            self._end(
                SourceError(
                    f"{self.name} gives no more frames, for {silent_s:.0f} s "
                    f"({self._why or 'it hangs'}): is it unplugged, or used elsewhere?"
                )
            )
        elif self._reopens:
            self._away = True
        else:
            connection.since_s = time.monotonic()  # there is nothing to do but wait
        return self._away

    def _reconnect(self) -> None:
        with self._changed:
            if self._over is not None:
                return
            if self._connection not in self._hung:
                self._hung.append(self._connection)
            self._hung = [connection for connection in self._hung if connection.alive()]
            if len(self._hung) < MOST_HUNG:
                self._connection = self._connect()
                self._connection.start()

    def _connect(self) -> Connection:
        return Connection(self._open_capture, self.name, self, time.monotonic())

    # With the lock held.

    def _has_news(self) -> bool:
        return self._waiting is not None or self._over is not None

    def _give(self, grab: Grab) -> Grab:
        if grab is self._waiting:
            self._waiting = None
            self._tally.given += 1
        return grab

    def _drop_waiting(self) -> None:
        self._tally.dropped += self._waiting is not None
        self._waiting = None

    def _end(self, over: SourceError) -> None:
        if self._over is None:
            self._over = over
        self._connection.stop.set()
        self._alarm.set()
        self._changed.notify_all()

    def _raise_over(self) -> None:
        if self._over is not None:
            raise self._over.with_traceback(None)
