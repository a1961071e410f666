"""What is measured while the robot runs: latencies, and what the process holds.

Linux tells a process about itself in /proc; where that is missing the figure is None.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_PROCESS = Path("/proc/self")


class Latency(NamedTuple):
    """Percentiles of `n` durations in milliseconds."""

    n: int
    p50: float
    p95: float
    p99: float


class Held(NamedTuple):
    """What the process holds now."""

    memory_bytes: int | None  # resident
    threads: int | None
    files: int | None


def latency(durations_ms: Sequence[float]) -> Latency | None:
    """None where nothing was measured."""
    if not durations_ms:
        return None
    p50, p95, p99 = np.percentile(np.asarray(durations_ms, np.float64), (50, 95, 99))
    return Latency(len(durations_ms), float(p50), float(p95), float(p99))


def held() -> Held:
    """Resident memory, threads and open files of this process."""
    try:
        status = _status()
        memory = int(status["VmRSS"].split()[0]) * 1024
        files = sum(1 for _ in (_PROCESS / "fd").iterdir()) - 1  # the listing itself opens one
        return Held(memory, int(status["Threads"]), files)
    except (OSError, KeyError, ValueError):
        return Held(None, None, None)


def peak_memory_bytes() -> int:
    """The most memory that this process ever held; without /proc, or its parent when it forked."""
    try:
        return int(_status()["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status() -> dict[str, str]:
    """What Linux says about this process, by name; proc(5), /proc/pid/status."""
    return dict(line.split(":", 1) for line in (_PROCESS / "status").read_text().splitlines())
