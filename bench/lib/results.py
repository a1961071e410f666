"""What a run of bench/speed.py is about and what it finds: works, machine, rows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from bench.lib.limits import Precision
from bench.lib.models import CPU_INT4, CPU_INT8, FP16, FP32, INT4, INT8

COLD_START, PEAK = "cold start to a token, s", "peak memory, MB"

_PRECISIONS = {
    "fp32": FP32,
    "bf16": FP16,
    "fp16": FP16,
    "f16": FP16,
    "int8": CPU_INT8,
    "w8a8": CPU_INT8,
    "w8a8-tensor": CPU_INT8,
    "int4": CPU_INT4,
    "q8_0": INT8,
    "q4_0": INT4,
}
"""Bytes of a weight by an engine's word for it; other scales than ours make some per cent."""


class Load(NamedTuple):
    """The least that a piece of work has to read and to compute."""

    bytes: float
    operations: float


class Work(NamedTuple):
    """One thing that every engine of a part is asked to do.

    request  as of `workers.Worker.ask`; the answer is in `unit`
    tokens   how many tokens were made in that time; 0: no rate is shown
    load     of a precision, where a roofline is known
    """

    name: str
    request: dict[str, Any]
    tokens: int = 0
    load: Callable[[Precision], Load] | None = None
    unit: str = "ms"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Rates that were measured here, of `threads` threads together, beside what others used."""

    processor: str
    threads: int
    read_bytes_s: float
    fp32_operations_s: float
    int8_operations_s: float
    others: float = 0.0

    def least_s(self, load: Load) -> float:
        """Seconds at full bandwidth and at the full rate of 8-bit products, whichever is longer.

        The fastest arithmetic of the machine is the limit of every row, also of those in fp32.
        """
        return max(load.bytes / self.read_bytes_s, load.operations / self.int8_operations_s)


class Row(msgspec.Struct, kw_only=True):
    """One engine in one part.

    figures   measure (a work's name, COLD_START, PEAK) -> a figure for each round
    accuracy  as it is shown; `agreement` is the same as a number, more is better
    failure   why there are no figures
    """

    engine: str
    precision: str
    ours: bool
    figures: dict[str, list[float]] = {}
    accuracy: str = ""
    agreement: float | None = None
    failure: str | None = None

    def median(self, measure: str) -> float:
        """Of a measure that it has."""
        return statistics.median(self.figures[measure])

    def load(self, work: Work) -> Load | None:
        """What the work takes in this row's precision; None where that is not known."""
        stored = _PRECISIONS.get(self.precision.lower())
        return None if work.load is None or stored is None else work.load(stored)


class PartResult(msgspec.Struct, kw_only=True):
    """The rows of a part; `notes` are sentences below its tables."""

    part: str
    rows: list[Row]
    notes: list[str] = []


def best_peer(
    rows: Iterable[Row], measure: str, precisions: frozenset[str] | None = None
) -> Row | None:
    """The peer with the least median, of those precisions if any are given."""
    peers = [
        row
        for row in rows
        if not row.ours
        and row.figures.get(measure)
        and (precisions is None or row.precision.lower() in precisions)
    ]
    return min(peers, key=lambda row: row.median(measure), default=None)
