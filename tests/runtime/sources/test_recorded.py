"""Recorded frames: their times, the pace at which they are played, and what is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mm_runtime.errors import SourceEnded, SourceError
from edge_mm_runtime.sources import open_source
from edge_mm_runtime.sources.grab import Grab
from edge_mm_runtime.sources.recorded import IterableFrames, Player, Recorded
from edge_mm_runtime.sources.video import VideoFrames


class Told:
    """A capture that tells `times_ms` and `rate`."""

    def __init__(self, times_ms: list[float], rate: float) -> None:
        self.times_ms, self.rate, self.index = times_ms, rate, -1

    def read(self) -> tuple[bool, Any]:
        self.index += 1
        done = self.index < len(self.times_ms)
        return done, np.zeros((2, 2, 3), np.uint8) if done else None

    def get(self, what: int) -> float:
        if what == cv2.CAP_PROP_FRAME_COUNT:
            return len(self.times_ms)
        return self.rate if what == cv2.CAP_PROP_FPS else self.times_ms[self.index]


@pytest.mark.parametrize(
    ("times_ms", "rate", "expected"),
    [
        ([0, 30, 95, 130], 30.0, [0, 0.03, 0.095, 0.13]),  # a phone's
        ([500, 540, 580], 25.0, [0, 0.04, 0.08]),  # cut out of a longer one
        ([0, 0, 0], 50.0, [0, 0.02, 0.04]),  # no times
        ([0, 0, 0], 90000.0, [0, 0.04, 0.08]),  # neither
        ([0, 40, 20, 120], 25.0, [0, 0.04, 0.08, 0.12]),  # one of them is broken
    ],
)
def test_the_times_of_a_video(times_ms: list[float], rate: float, expected: list[float]) -> None:
    frames = VideoFrames(Told(times_ms, rate))
    got = [next(frames).timestamp_s for _ in times_ms]
    np.testing.assert_allclose(got, expected, atol=1e-12)


class Waiting:
    """An event that nobody sets and a clock: waiting takes made-up time."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.waits: list[float] = []

    def wait(self, timeout: float) -> bool:
        self.waits.append(timeout)
        self.now_s += timeout
        return False


def test_a_played_file_keeps_its_times() -> None:
    event = Waiting()
    frames = IterableFrames([np.zeros((2, 2, 3), np.uint8)] * 4, frames_per_s=10)
    player = Player(frames, "film", event, paced=True, clock=lambda: event.now_s)
    player.read()
    event.now_s += 0.03  # decoding takes time
    player.read()
    event.now_s += 0.25  # too much of it: the third one is late by 0.15, the fourth by 0.05
    player.read()
    player.read()
    np.testing.assert_allclose(event.waits, [0, 0.07, 0, 0], atol=1e-9)
    with pytest.raises(SourceEnded, match="film has ended"):
        player.read()


def test_any_iterable() -> None:
    closed = []

    def frames() -> Iterator[Any]:
        try:
            yield np.full((2, 3, 3), 90, np.uint8)
            yield None
            yield np.full((2, 3), 90, np.uint8), np.full((2, 3), 1.5, np.float32)
            yield Grab(np.full((1, 1, 3), 90, np.uint8), 7.5, "mine")
            yield np.full((2, 3, 3), 90, np.uint8)
        finally:
            closed.append(True)

    with open_source(frames(), frames_per_s=2) as source:
        grabs = [source.read() for _ in range(3)]
        stats = source.stats()
    assert closed
    assert [(grab.frame_id, grab.timestamp_s) for grab in grabs] == [
        (0, 0),
        (2, 1.0),
        ("mine", 7.5),
    ]
    assert grabs[1].depth is not None
    assert stats.faults == {"corrupt": 1, "resolution": 1}
    assert stats.captured == stats.given == 3
    assert len(list(open_source(np.zeros((5, 2, 3, 3), np.uint8)))) == 5
    assert [grab.timestamp_s for grab in open_source([np.zeros((2, 2), np.uint8)])] == [None]


def test_frames_of_a_wrong_kind_are_told_and_not_skipped_for_ever() -> None:
    floats = np.zeros((2, 3, 3), np.float32)
    with pytest.raises(SourceError, match=r"a frame has dtype uint8 .* float32"):
        list(open_source([floats] * 3))

    def endless() -> Iterator[Any]:
        yield np.zeros((2, 3, 3), np.uint8)
        while True:
            yield floats

    with pytest.raises(SourceError, match="100 frames in a row cannot be used"):
        list(open_source(endless()))
    with pytest.raises(SourceError, match="has no frame"):
        list(open_source([]))


def test_a_video_without_a_frame() -> None:
    with pytest.raises(SourceError, match=r"video v.mp4 has no frame that can be read"):
        Recorded(VideoFrames(Told([], 25.0)), "video v.mp4").read()
