"""Record what a watched sequence shows, on a simulated clock: the same result on every machine.

The model is asked `rate_hz` times a second and its answer arrives 1 / rate_hz later (a model that
is always busy), so it is about a frame that long ago. Three recordings:

    tracked  the answers go through runtime/watch.py's Watcher, as a live camera's do
    held     the same answers at the same times; their boxes stay until the next one
    alone    the model asked about every frame, at once: more than any robot could have
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from edge_mm.evaluate.temporal import Recording, Shown
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.image import Frame
from edge_mm_runtime.sources import Grab
from edge_mm_runtime.watch import Look, Watcher

AskFrame = Callable[[int], Answer]  # the answer about a frame, by its number


@dataclass(frozen=True)
class Runs:
    """Both recordings of one simulation; `first` is the frame in which the first answer came."""

    tracked: Recording
    held: Recording
    looks: list[Look | None]
    first: int


def simulate(
    frames: Sequence[Frame], ask: AskFrame, *, rate_hz: float, frames_per_s: float
) -> Runs:
    """Watch a sequence with a model that answers `rate_hz` times a second."""
    watcher = Watcher()
    looks: list[Look | None] = []
    held: list[list[Shown]] = []
    answer: Answer | None = None
    asked: int | None = None  # the frame being asked about
    for number, frame in enumerate(frames):
        grab = Grab(frame, number / frames_per_s, number)
        watcher.see(grab)
        # The half frame keeps a sum of frame times that should be 1 / rate from falling short.
        if asked is not None and number - asked + 0.5 >= frames_per_s / rate_hz:
            answer = msgspec.structs.replace(
                ask(asked), frame_id=asked, timestamp_s=asked / frames_per_s
            )
            watcher.answered(answer)
            asked = None
        if asked is None:
            watcher.mark()
            asked = number
        looks.append(watcher.look(grab, grab.timestamp_s))
        held.append([] if answer is None else shown(answer))
    first = next((k for k, look in enumerate(looks) if look is not None), len(frames))
    tracked = Recording(
        [[] if look is None else shown(look.answer) for look in looks],
        [() if look is None else look.lost for look in looks],
    )
    return Runs(tracked, Recording(held, [()] * len(frames)), looks, first)


def alone(frames: int, ask: AskFrame) -> Recording:
    """The model asked about every frame."""
    return Recording([shown(ask(number)) for number in range(frames)], [()] * frames)


def shown(answer: Answer) -> list[Shown]:
    """The boxes of an answer; without tracks, the place in its list is all there is for an id."""
    return [
        Shown(index if item.track_id is None else item.track_id, item.box_xyxy)
        for index, item in enumerate(answer.objects)
        if item.box_xyxy is not None
    ]
