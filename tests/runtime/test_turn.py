"""One question at a time, and when it ends."""

from __future__ import annotations

import threading
import time

import pytest

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.turn import Interrupt, Turns


def test_an_interrupt_is_the_first_reason_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 10.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    one, other = threading.Event(), threading.Event()
    interrupt = Interrupt(2.0, one, None, other)
    assert interrupt() is None
    now = 11.99
    assert interrupt() is None
    other.set()
    assert interrupt() == "cancelled"
    other.clear()
    now = 13.0
    assert interrupt() == "cancelled"
    late = Interrupt(0.0, one)
    assert late() == "timeout"
    one.set()
    assert late() == "timeout"
    assert Interrupt(None)() is None


def test_a_second_turn_is_refused_until_the_first_ends() -> None:
    turns = Turns()
    with (
        turns.take(None),
        pytest.raises(UsageError, match="answering another question"),
        turns.take(None),
    ):
        pass
    with pytest.raises(ZeroDivisionError), turns.take(None):
        raise ZeroDivisionError
    with turns.take(None):
        pass


def test_a_cancel_is_of_the_question_that_is_open() -> None:
    turns = Turns()
    turns.cancel()
    with turns.take(None) as interrupted:
        assert interrupted() is None
        turns.cancel()
        assert interrupted() == "cancelled"
    with turns.take(None) as interrupted:
        assert interrupted() is None


def test_closing_waits_for_work_but_not_for_a_reader() -> None:
    turns = Turns()
    working, closed = threading.Event(), threading.Event()
    seen: list[tuple[str | None, bool]] = []

    def close() -> None:
        working.wait(10)
        with turns.close():
            closed.set()

    closer = threading.Thread(target=close)
    closer.start()
    with turns.take(None) as interrupted:
        working.set()
        while interrupted() is None:  # set by the closer
            time.sleep(0.001)
        seen.append((interrupted(), closed.is_set()))
        with turns.pause():
            assert closed.wait(10)
    closer.join(10)
    assert seen == [("cancelled", False)]
    with (
        pytest.raises(UsageError, match="this session is closed: open another one"),
        turns.take(None),
    ):
        pass
