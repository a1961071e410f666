"""One part of bench/speed.py: prepare its engines, start them, let them take turns, judge them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from bench.lib.machine import busy_share
from bench.lib.results import COLD_START, PEAK, PartResult, Row, Work
from bench.lib.turns import BUSY, Turns, take_turns
from bench.lib.workers import Worker
from edge_mm_runtime.errors import EdgeMMError

OURS = "edge-mm"
TROUBLE = (EdgeMMError, RuntimeError, ValueError, OSError, ImportError, subprocess.SubprocessError)
"""What installing, converting and starting a peer may end with; the run goes on without it."""

Say = Callable[[str], None]
Judge = Callable[[Mapping[str, Worker]], dict[str, tuple[str, float]]]
"""(workers) -> engine -> its accuracy in words, and as a number of which more is better."""


class Engine(NamedTuple):
    """A model on an engine.

    name     of its row; precision as in `results._PRECISIONS`
    engine   by which `--peers` chooses it
    prepare  installs and converts what is missing; the command of its worker
    """

    name: str
    engine: str
    precision: str
    prepare: Callable[[], list[str]]

    @property
    def ours(self) -> bool:
        return self.engine == OURS


class Part(NamedTuple):
    """Engines with the same model, and what they are asked.

    rounds  unless another number is asked for; starts: how often each process is started
    first   the request that ends a start
    judge   measures accuracy while all workers are alive
    more    further figures, in sentences; asked last
    """

    name: str
    engines: Sequence[Engine]
    works: Sequence[Work]
    rounds: int
    first: dict[str, Any]
    judge: Judge
    starts: int = 1
    more: Callable[[Mapping[str, Worker]], list[str]] = lambda workers: []


def run_part(
    part: Part, rounds: int | None, say: Say, others: Callable[[], float] = busy_share
) -> PartResult:
    """Measure it; `others` as of `take_turns`.

    What fails of one engine is said in its row, and the others go on.
    """
    rows = {
        engine.name: Row(engine=engine.name, precision=engine.precision, ours=engine.ours)
        for engine in part.engines
    }
    commands = _prepared(part.engines, rows, say)
    with ExitStack() as stack:
        workers = _started(part, commands, rows, stack, say)
        turns = take_turns(workers, part.works, rounds or part.rounds, others=others, say=say)
        for name, why in turns.failed.items():
            rows[name].failure = why
            del workers[name]
        for name, times in turns.times.items():
            rows[name].figures |= times
            rows[name].figures[PEAK] = [workers[name].ask({"memory": True})]
        say(f"{part.name}: accuracy")
        for name, (words, number) in part.judge(workers).items():
            rows[name].accuracy, rows[name].agreement = words, number
        notes = [_guard(turns), *part.more(workers)]
    for row in rows.values():
        if row.failure:
            row.figures = {}
    return PartResult(part=part.name, rows=list(rows.values()), notes=notes)


def _prepared(engines: Sequence[Engine], rows: Mapping[str, Row], say: Say) -> dict[str, list[str]]:
    commands = {}
    for engine in engines:
        say(f"preparing {engine.name}")
        try:
            commands[engine.name] = engine.prepare()
        except TROUBLE as error:
            rows[engine.name].failure = _told(error)
            say(f"{engine.name} is left out: {rows[engine.name].failure}")
    return commands


def _started(
    part: Part,
    commands: Mapping[str, list[str]],
    rows: Mapping[str, Row],
    stack: ExitStack,
    say: Say,
) -> dict[str, Worker]:
    """The workers of the last start; those before it are for the time that a start takes."""
    workers = {}
    for number in range(part.starts):
        say(f"{part.name}: start {number + 1} of {part.starts}")
        for name in sorted(commands, reverse=number % 2 == 1):
            if rows[name].failure:
                continue
            try:
                worker = Worker(commands[name], part.first)
            except TROUBLE as error:
                rows[name].failure = _told(error)
                say(f"{name} is left out: {rows[name].failure}")
                continue
            if part.starts > 1:
                rows[name].figures.setdefault(COLD_START, []).append(worker.cold_start_s)
            if number < part.starts - 1:
                worker.__exit__()
            else:
                workers[name] = stack.enter_context(worker)
    return workers


def _guard(turns: Turns) -> str:
    """Whether the machine was ours."""
    most = max(turns.others, default=0.0)
    said = f"{len(turns.others)} rounds, {turns.again} more were taken again; "
    if turns.disturbed:
        return (
            f"**{said}the machine was not ours alone: others used more than {100 * BUSY:.0f} % of "
            f"the cores beside {turns.disturbed} of them (at most {100 * most:.0f} %)**"
        )
    return f"{said}others used at most {100 * most:.0f} % of the cores beside them"


def _told(error: BaseException) -> str:
    """The last line that it says: of a compiler or of pip that is the reason."""
    said = getattr(error, "stderr", None) or str(error)
    lines = [line.strip() for line in str(said).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
