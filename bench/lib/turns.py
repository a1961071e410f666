"""Rounds in which each engine does each work once, in alternating order, on a machine of our own.

A machine drifts (heat, neighbours): engines that take turns drift together, so that ratios hold
where milliseconds do not. While nobody of ours works, before and after a round, the share of the
cores that others use is measured; a round beside which that was more than `BUSY` is taken again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from bench.lib.machine import busy_share
from bench.lib.results import Work

BUSY = 0.05
RETAKES = 3
"""How many rounds of a part may be taken again; those after it are kept as they are, and told."""


REST_S = 0.2
"""Between two engines: the threads of the one before may stay awake so long for more work."""


class Asker(Protocol):
    """What takes turns: a `workers.Worker`."""

    def ask(self, request: dict[str, Any]) -> Any:
        """The figure that answers a request; RuntimeError or OSError when the engine has died."""


class Turns(NamedTuple):
    """What the rounds gave.

    times   engine -> work -> a figure for each round that was kept, the same rounds for all
    others  of each kept round, the share of the cores that others used
    again   how many rounds were taken again
    failed  engine -> why it is not in `times`
    """

    times: dict[str, dict[str, list[float]]]
    others: list[float]
    again: int
    failed: dict[str, str]

    @property
    def disturbed(self) -> int:
        """How many of the kept rounds were not ours alone."""
        return sum(share > BUSY for share in self.others)


def take_turns(
    askers: Mapping[str, Asker],
    works: Sequence[Work],
    rounds: int,
    *,
    others: Callable[[], float] = busy_share,
    rest_s: float = REST_S,
    say: Callable[[str], None] = lambda line: None,
) -> Turns:
    """Let every engine do all works, `rounds` times after one round that only warms up."""
    playing, kept = dict(askers), list[dict[str, list[float]]]()
    shares, failed, again, taken = list[float](), dict[str, str](), 0, 0
    before = others()
    while len(kept) < rounds and playing:
        say(f"round {len(kept) + 1 if taken else 0} of {rounds}")
        found = {}
        for name in sorted(playing, reverse=taken % 2 == 1):
            time.sleep(rest_s)
            try:
                found[name] = [float(playing[name].ask(work.request)) for work in works]
            except (RuntimeError, OSError) as error:
                failed[name] = _first_line(error)
                say(f"{name} has ended: {failed[name]}")
                del playing[name]
        after = others()
        share, before, taken = max(before, after), after, taken + 1
        if taken == 1:
            continue
        if share > BUSY and again < RETAKES:
            again += 1
            say(f"others used {100 * share:.0f} % of the cores: once more")
            continue
        kept.append(found)
        shares.append(share)
    times = {
        name: {work.name: [turn[name][n] for turn in kept] for n, work in enumerate(works)}
        for name in playing
    }
    return Turns(times, shares, again, failed)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
