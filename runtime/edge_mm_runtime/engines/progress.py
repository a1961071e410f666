"""A long call to TensorRT: told to the user while it runs, and stopped by Ctrl-C.

TensorRT builds for minutes inside one C++ call, where Python's Ctrl-C does not arrive. So the call
runs in a thread; the main thread waits, tells, and on any exception asks TensorRT to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

Show = Callable[[str], None]
_TICK_S = 0.1


class Progress:
    """Which phases a build is in; written by TensorRT's threads, read by the waiting one."""

    def __init__(self) -> None:
        self.cancelled = False
        self._lock = threading.Lock()
        self._phases: dict[str, tuple[int, int]] = {}  # name -> steps done, steps; outermost first

    def start(self, phase: str, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[phase] = (0, steps)

    def step(self, phase: str, step: int) -> bool:
        """Step number `step` of a phase is done; False asks TensorRT to stop."""
        with self._lock:
            self._phases[phase] = (step + 1, self._phases.get(phase, (0, step + 1))[1])
            return not self.cancelled

    def finish(self, phase: str) -> None:
        """A phase ends."""
        with self._lock:
            self._phases.pop(phase, None)

    def __str__(self) -> str:
        """The outermost and the innermost phase, e.g. "Building engine 4/6, Tuning 3/10"."""
        with self._lock:
            told = [f"{name} {done}/{steps}" for name, (done, steps) in self._phases.items()]
        return ", ".join(dict.fromkeys(told[:1] + told[-1:]))


def monitor(trt: Any, progress: Progress) -> Any:
    """TensorRT's own interface to a `Progress`. Its methods must not raise: C++ calls them."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known only at run time
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def run_shown(call: Callable[[], Any], progress: Progress, what: str, show: Show) -> Any:
    """`call()` in a thread, its progress shown; an exception here stops it and is raised again."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, name=f"build of {what}", daemon=True)
    started = time.monotonic()
    thread.start()
    try:
        while thread.is_alive():
            show(f"{what}: {time.monotonic() - started:.0f} s  {progress}")
            thread.join(_TICK_S)
    except BaseException:
        progress.cancelled = True
        thread.join()
        raise
    if failure:
        raise failure[0]
    return result[0]
