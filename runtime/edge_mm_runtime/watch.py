"""Watch a stream: the model answers at its pace, and its boxes are carried at the camera's.

with open_source("0") as source, Session() as session:
    for look in watch(source, "find the red cup", session):
        ...  # look.answer.objects are where they are in look.grab.frame

A look is given for every frame from the first answer on (of a live source not for those that a
newer one overtakes while the caller has the last look), and at once for every answer: one that
comes between two frames of a live source gives a second look at the frame before. The boxes of a
look are of its frame, but what the model said is older: `look.answer.age_s` counts from the frame
that it was really asked about, whose id and time are `answer.frame_id` and `answer.timestamp_s`.

What a robot may conclude from `look.answer`:
    found True    `objects` were followed into this frame; each has a `track_id` that stays, also
                  when it comes back from out of view soon (track.py)
    found None    with no objects: words, or "lost from sight": what was found could not be followed
                  into this frame, and the next answer will tell
    found False   the model says that it is not in view, or all that it found is lost
Of steps all are kept, and `objects` are those of the steps that are tracked, in their order; the
object of a step that is not among them is where it was last known to be.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import msgspec

from edge_mm_runtime.answer import Answer, GroundedObject, Mode, Step
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.sources import Grab, Source
from edge_mm_runtime.sources.reader import SOON_S, Reader
from edge_mm_runtime.tracker import Tracker

if TYPE_CHECKING:
    from edge_mm_runtime.session import Session

ABSENT, UNCERTAIN = "not in view", "lost from sight"
LAST_ANSWER_S = 10.0  # how long a stream that has ended waits for the answer being made
# Of the time between two frames: the age up to which a frame is worth a question. An older one is
# not asked about, the next is nearly there. Half is where the answers at hand are newest on the
# whole: with more they come late, with less there are fewer of them.
WORTH_ASKING = 0.5


class Look(msgspec.Struct, frozen=True):
    """One frame, and what is known about it.

    answer     boxes as tracked to this frame, with `track_id`; `age_s` since the frame that was
               asked about (see the top of this file)
    fresh      a new answer of the model arrived with this look
    lost       ids of the tracks that were declared lost since the last look. One of them may come
               back: what is found again within track.REMEMBERED_S has the id that it had
    uncertain  ids of the tracks that could not be followed into this frame and are not in
               `answer.objects`
    again      the frame is that of the look before: an answer came between two frames
    """

    grab: Grab
    answer: Answer
    fresh: bool
    lost: tuple[int, ...]
    uncertain: tuple[int, ...] = ()
    again: bool = False


class Watcher:
    """The state of one stream: the newest answer, and its objects through the frames since."""

    def __init__(self) -> None:
        self.tracker = Tracker()
        self._answer: Answer | None = None
        self._looked_at: Grab | None = None
        self._steps: tuple[Step, ...] = ()
        self._step_ids: Sequence[int | None] = ()
        self._fresh, self._unplaced = False, False
        self._lost: tuple[int, ...] = ()

    def see(self, grab: Grab) -> None:
        """Take the next frame; every one that the source gives, in order."""
        self._lost += self.tracker.see(grab.frame, grab.timestamp_s)

    def mark(self) -> None:
        """The model is asked about the frame that was seen last."""
        self.tracker.mark()

    def answered(self, answer: Answer) -> bool:
        """Take the answer about the marked frame; whether it was taken.

        The last one stays where this one says nothing: it was cut short before it named anything,
        or its places are of a frame of another size.
        """
        whole = answer.finish_reason == "stop"
        if not whole and not answer.objects and self._answer is not None:
            return False
        if answer.objects and not self.tracker.marked:
            return False
        grounded = self.tracker.ground(answer.objects, whole=whole)
        self._lost += grounded.lost
        self._answer, self._fresh, self._unplaced = answer, True, grounded.unplaced
        self._steps, self._step_ids = answer.steps, grounded.ids[: len(answer.steps)]
        return True

    def look(self, grab: Grab, now_s: float | None) -> Look | None:
        """The look at the frame seen last; None before the first answer.

        now_s  on the clock of the answers' timestamp_s; None where frames have no time
        """
        if self._answer is None:
            return None
        asked_s = self._answer.timestamp_s
        age_s = None if now_s is None or asked_s is None else now_s - asked_s
        look = Look(
            grab=grab,
            answer=msgspec.structs.replace(self._placed(self._answer), age_s=age_s),
            fresh=self._fresh,
            lost=self._lost,
            uncertain=tuple(t.id for t in self.tracker.tracks if t.state == "uncertain"),
            again=grab is self._looked_at,
        )
        self._fresh, self._lost, self._looked_at = False, (), grab
        return look

    def _placed(self, answer: Answer) -> Answer:
        """The answer with its objects where they are now; words stay as they are."""
        if answer.found is None and not answer.objects:
            return answer
        objects = self.tracker.objects()
        if answer.steps:
            objects = self._follow_steps(objects)
        if objects:
            found, text = True, ", ".join(item.label for item in objects)
        elif self._unplaced or any(t.state == "uncertain" for t in self.tracker.tracks):
            found, text = None, UNCERTAIN
        else:
            found, text = False, ABSENT
        return msgspec.structs.replace(
            answer,
            text=answer.text if answer.steps else text,
            objects=objects,
            found=found,
            steps=self._steps,
            confidence=answer.confidence if found is False and answer.found is False else None,
        )

    def _follow_steps(self, objects: tuple[GroundedObject, ...]) -> tuple[GroundedObject, ...]:
        """Bring the steps up to now; the objects of those that are tracked, in their order."""
        tracked: dict[int | None, GroundedObject] = {item.track_id: item for item in objects}
        now = [tracked.get(track_id) for track_id in self._step_ids]
        self._steps = tuple(
            step if item is None else Step(step.action, step.relation, item)
            for step, item in zip(self._steps, now, strict=True)
        )
        return tuple(item for item in now if item is not None)


def watch(
    source: Source,
    text: str,
    session: Session,
    *,
    mode: Mode = "locate",
    answer_every_s: float = 0.0,
    timeout_s: float | None = None,
) -> Iterator[Look]:
    """Ask the same question of a stream as it goes on; a look for every frame that it gives.

    source          a live one: the model answers in a thread of its own, one question at a time,
                    always about the newest frame, and each answer gives a look as soon as it is
                    there. Any other: every frame in order, and the answer is waited for, so that
                    the same file gives the same looks
    answer_every_s  seconds of the stream between two questions; 0: as often as the model can, of a
                    file every frame. Pictures have no time: each of them is asked about
    timeout_s       of each answer (see Session.ask)
    Ends when the source does, after the answer that was being made (LAST_ANSWER_S at most, or
    timeout_s); closing the generator cancels it. What goes wrong in a thread is raised here.
    """
    if answer_every_s < 0:
        raise UsageError(f"answer_every_s is {answer_every_s}: give 0 or more seconds")
    clock = Clock(answer_every_s)
    if source.live:
        return _watch_live(source, text, session, mode, clock, timeout_s)
    return _watch_file(source, text, session, mode, clock, timeout_s)


class Clock:
    """When the next question is due, by the time of the frames."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last_s: float | None = None

    def due(self, grab: Grab) -> bool:
        """Whether to ask about this frame; then the next one is due `every_s` later."""
        now, last = grab.timestamp_s, self._last_s
        if now is not None and last is not None and 0 <= now - last < self._every_s:
            return False  # a time that goes back is that of a stream that began again
        self._last_s = now
        return True


def _watch_file(
    source: Source, text: str, session: Session, mode: Mode, clock: Clock, timeout_s: float | None
) -> Iterator[Look]:
    watcher = Watcher()
    for grab in source:
        watcher.see(grab)
        if clock.due(grab):
            watcher.mark()
            answer = session.ask(
                grab.frame, text, mode=mode, timeout_s=timeout_s, frame_id=grab.frame_id
            )
            # The stream's own time, not the clock on the wall
            watcher.answered(msgspec.structs.replace(answer, timestamp_s=grab.timestamp_s))
        look = watcher.look(grab, grab.timestamp_s)
        if look is not None:
            yield look


def _watch_live(
    source: Source, text: str, session: Session, mode: Mode, clock: Clock, timeout_s: float | None
) -> Iterator[Look]:
    """Wait for a frame and for an answer, whichever comes first; only this thread tracks."""
    watcher, pace = Watcher(), Pace()
    cancel = threading.Event()
    reader = Reader(source)
    worker = ThreadPoolExecutor(1, "edge_mm watch")
    asked: Future[Answer] | None = None
    grab: Grab | None = None

    def ask(about: Grab) -> Answer:
        return session.ask(
            about.frame,
            text,
            mode=mode,
            timeout_s=timeout_s,
            frame_id=about.frame_id,
            timestamp_s=about.timestamp_s,
            cancel=cancel,
        )

    try:
        while True:
            coming = reader.coming()
            late = coming.done()  # it came while the caller had the last look
            awaited: list[Future[Any]] = [coming] if asked is None else [coming, asked]
            if asked is not None and asked.done():
                wait([coming], SOON_S)  # the answer came meanwhile: let it be told with a new frame
            wait(awaited, return_when=FIRST_COMPLETED)
            now_s, news = time.monotonic(), coming.done()
            if news:
                if coming.result() is None:
                    break
                for grab in reader.arrived(late):
                    watcher.see(grab)
                pace.came(now_s)
            assert grab is not None, "nothing is asked before the first frame"
            if asked is not None and asked.done():
                news = watcher.answered(asked.result()) or news
                asked = None
            if asked is None and pace.worth_asking(now_s) and clock.due(grab):
                watcher.mark()
                pace.asked()
                asked = worker.submit(ask, grab)
            look = watcher.look(grab, time.monotonic()) if news else None
            if look is not None:
                yield look
        if asked is not None and grab is not None:
            try:
                news = watcher.answered(asked.result(timeout_s or LAST_ANSWER_S))
            except FutureTimeoutError:
                return
            look = watcher.look(grab, time.monotonic()) if news else None
            if look is not None:
                yield look
    finally:
        cancel.set()
        worker.shutdown(wait=True, cancel_futures=True)
        reader.close()


class Pace:
    """Which frames a free model is asked about: each once at most, and none that is nearly over."""

    def __init__(self) -> None:
        self._came_s: float | None = None  # the newest frame, if it was not asked about
        self._before_s: float | None = None
        self._between_s = math.inf  # the newest frame and the one before it

    def came(self, now_s: float) -> None:
        """A frame came."""
        if self._before_s is not None:
            self._between_s = now_s - self._before_s
        self._came_s = self._before_s = now_s

    def worth_asking(self, now_s: float) -> bool:
        """Whether to ask about the newest frame now; if not, about the next one."""
        if self._came_s is None:
            return False
        return now_s - self._came_s <= WORTH_ASKING * self._between_s

    def asked(self) -> None:
        """The newest frame is being asked about."""
        self._came_s = None
