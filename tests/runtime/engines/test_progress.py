"""A long call is told while it runs, and stops when the waiting thread is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from edge_mm_runtime.engines.progress import Progress, run_shown


def test_progress_names_the_outermost_and_the_innermost_phase() -> None:
    progress = Progress()
    assert str(progress) == ""
    progress.start("Building", 6)
    assert progress.step("Building", 3)
    assert str(progress) == "Building 4/6"
    progress.start("Graph", 1)
    progress.start("Tuning", 10)
    assert str(progress) == "Building 4/6, Tuning 0/10"
    progress.finish("Tuning")
    progress.finish("Graph")
    assert str(progress) == "Building 4/6"


def test_the_result_and_the_failure_come_back() -> None:
    shown: list[str] = []
    assert run_shown(lambda: 7, Progress(), "vision", shown.append) == 7
    assert not shown or shown[0].startswith("vision: 0 s")

    def fail() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        run_shown(fail, Progress(), "vision", shown.append)


def test_ctrl_c_stops_the_call(ctrl_c: Callable[..., None]) -> None:
    progress = Progress()
    progress.start("Tuning", 1000)
    steps = 0

    def build() -> None:  # like TensorRT: asks after each step whether to go on
        nonlocal steps
        while progress.step("Tuning", steps) and steps < 1000:
            steps += 1
            time.sleep(0.01)

    with pytest.raises(KeyboardInterrupt):
        run_shown(build, progress, "decoder", ctrl_c)
    assert steps < 1000
