"""Faults, with made-up times: what is one, when it begins and ends, and what the log says."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from edge_mm_runtime.sources.faults import BLACK_S, CALM_S, Health, is_black

GREY = np.full((48, 64, 3), 90, np.uint8)
BLACK = np.zeros((48, 64, 3), np.uint8)


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock, caplog: pytest.LogCaptureFixture) -> Health:
    caplog.set_level(logging.INFO)
    return Health("camera 0", clock)


def see(health: Health, clock: Clock, frame: np.ndarray, seconds: float) -> None:
    """Frames at 8 a second, a step without rounding."""
    for _ in range(round(seconds * 8)):
        clock.now_s += 0.125
        health.frame(frame, clock.now_s)


def test_black_frames_are_told_once(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    see(health, clock, GREY, 1)
    see(health, clock, BLACK, BLACK_S - 0.25)
    assert not health.counts
    see(health, clock, BLACK, 5)
    assert health.counts == {"black": 1}
    assert health.trouble() == ", black for 4.6 s"
    see(health, clock, GREY, 1)
    assert health.trouble() == ""
    assert [record.getMessage() for record in caplog.records] == [
        "camera 0: frames are black: is the lens covered?",
        "camera 0: frames are no longer black, after 4.8 s",
    ]


def test_black_counts_in_the_time_of_the_stream(health: Health) -> None:
    for index in range(100):  # a file is read in no time
        health.frame(BLACK, index / 30)
    assert health.counts == {"black": 1}


def test_pictures_by_themselves_may_be_black_and_of_any_size(health: Health) -> None:
    for side in range(1, 100):
        health.frame(np.zeros((side, 64, 3), np.uint8), None)
    assert not health.counts


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (480, 640), (30, 4000, 3), (480, 640, 1)])
def test_black_of_every_shape(shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).integers(0, 6, shape, dtype=np.uint8)
    assert is_black(noise)
    assert not is_black(np.full(shape, 40, np.uint8))


def test_a_dark_room_is_not_black() -> None:
    room = np.full((480, 640, 3), 4, np.uint8)
    room[200:240, 300:420] = 60  # a lamp, a screen
    assert not is_black(room)
    transparent = np.zeros((480, 640, 4), np.uint8)
    transparent[..., 3] = 255
    assert is_black(transparent)


def test_a_change_of_size_is_told(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for side in (480, 480, 720, 720):
        health.frame(np.full((side, 640, 3), 90, np.uint8), clock.now_s)
    assert health.counts == {"resolution": 1}
    assert caplog.messages == ["camera 0: frames were 640 x 480 and are 640 x 720 now"]


def test_corrupt_frames_are_counted_and_told_once(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for index in range(300):  # every second frame is broken
        clock.now_s += 0.05
        health.corrupt(f"frame {index}") if index % 2 else health.frame(GREY, clock.now_s)
    assert health.counts == {"corrupt": 150}
    see(health, clock, GREY, CALM_S + 1)
    assert caplog.messages == [
        "camera 0: skips a frame that cannot be used: frame 1",
        f"camera 0: frames are whole again, after {300 * 0.05 - 0.1 + CALM_S + 0.125:.1f} s",
    ]
    health.corrupt("again")
    assert len(caplog.messages) == 3


def test_an_outage_is_one_fault_however_it_goes_on(
    health: Health, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    health.outage("stall", "no frame for 2.0 s")
    for _ in range(20):
        clock.now_s += 1
        health.outage("unplug", "cannot open camera 0")
    assert health.counts == {"stall": 1}
    assert health.trouble() == ", stall for 20.0 s"
    see(health, clock, GREY, 1)
    assert caplog.messages == [
        "camera 0: no frame for 2.0 s",
        "camera 0: frames come again, after 20.1 s",
    ]
