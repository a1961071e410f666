"""The shipped model behind the runtime's Session, as a bundle or in torch, as a worker.

python bench/peers/nano.py cpu|openvino|torch FOLDER THREADS, then requests on standard input:

    {"new_frame": 1}     -> ms from a frame that was never seen to its parsed answer
    {"second": 1}        -> ms of another question on that frame
    {"conversation": 5}  -> ms of so many questions about one new frame
    {"stream": 60}       -> [answers a second, median and p95 of camera to answer in ms]
    {"answers": 12}      -> the answers, in words, to questions about so many shipped frames
"""

from __future__ import annotations

import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.lib.workers import serve
from bench.soak import over_and_over
from edge_mm.demo.questions import load_questions, shipped_frames
from edge_mm_runtime import Answer, Session
from edge_mm_runtime.devices import Device
from edge_mm_runtime.image import Frame, read_image
from edge_mm_runtime.sources import open_source
from edge_mm_runtime.watch import watch

FIRST, SECOND = "find the bottle", "is there a cup?"
CONVERSATION = (
    FIRST,
    SECOND,
    "how many bottles are there?",
    "find the cup",
    "what color is the cup?",
)
VIDEO, RATE = "bottle-detection.mp4", 30.0


class Nano:
    """Answers the requests; frames are those of examples/frames, shifted anew each time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._frames = [read_image(path) for path in sorted(shipped_frames().glob("*.jpg"))]
        self._numbers = count()
        self._frame = self._next()

    def answer(self, request: dict[str, Any]) -> Any:
        """One of the requests above."""
        match request:
            case {"new_frame": _}:
                self._frame = self._next()
                return self._milliseconds([FIRST])
            case {"second": _}:
                return self._milliseconds([SECOND])
            case {"conversation": questions}:
                self._frame = self._next()
                return self._milliseconds(CONVERSATION[:questions])
            case {"stream": seconds}:
                return self._stream(seconds)
            case {"answers": frames}:
                return self._answers(frames)
        raise ValueError(f"no request of nano: {request}")

    def _next(self) -> Frame:
        number = next(self._numbers)
        frame = self._frames[number % len(self._frames)]
        return np.roll(frame, 8 * (1 + number // len(self._frames)), axis=1)

    def _milliseconds(self, questions: list[str] | tuple[str, ...]) -> float:
        started = time.perf_counter()
        for text in questions:
            self._session.ask(self._frame, text)
        return (time.perf_counter() - started) * 1e3

    def _stream(self, seconds: float) -> list[float]:
        """Frames at 30 a second, the model always on the newest, boxes tracked in between."""
        frames = over_and_over(shipped_frames() / VIDEO, RATE)
        ages: list[float] = []
        with open_source(frames, real_time=True, frames_per_s=RATE) as source:
            started = time.monotonic()
            for look in watch(source, FIRST, self._session):
                if look.fresh and look.answer.age_s is not None:
                    ages.append(1e3 * look.answer.age_s)
                if ages and time.monotonic() - started >= seconds:
                    break
        took_s = time.monotonic() - started
        middle, late = np.percentile(ages, [50, 95]).tolist()
        return [len(ages) / took_s, middle, late]

    def _answers(self, frames: int) -> list[str]:
        folder = shipped_frames()
        return [
            _words(self._session.ask(read_image(folder / picture.file), question.text))
            for picture in load_questions(folder)[0].pictures[:frames]
            for question in picture.questions
        ]


def _words(answer: Answer) -> str:
    """What was said, and how many things were found."""
    return f"{answer.text} / {len(answer.objects)}"


def main() -> None:
    kind, name, threads = sys.argv[1:]
    if kind == "torch":
        import torch

        from edge_mm.model.session import open_checkpoint

        torch.set_num_threads(int(threads))
        session = open_checkpoint(Path(name))
    else:
        session = Session(name, threads=int(threads), device=msgspec.convert(kind, Device))
    with session:
        serve(Nano(session).answer)


if __name__ == "__main__":
    main()
