"""Figures as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from edge_mm.evaluate.against import Difference
from edge_mm.evaluate.catalogue import written
from edge_mm.evaluate.metrics import Metric

WIDTH = 16


def table(metrics: Mapping[str, Metric]) -> str:
    """A line a metric: its value and interval in percent, or as a plain number."""
    width = max([WIDTH, *map(len, metrics)])
    return "\n".join(
        f"{name:{width}} {written(name, m.value)}  "
        f"[{written(name, m.low)}, {written(name, m.high)}]  n={m.n}"
        for name, m in metrics.items()
    )


def comparison(
    ours: Mapping[str, Metric],
    theirs: Mapping[str, Metric],
    differences: Mapping[str, Difference],
) -> str:
    """A line a metric: this model, the other one, the difference with its interval, the verdict."""
    width = max([WIDTH, *map(len, differences)])
    lines = [f"{'':{width}} {'this':>5} {'other':>6}  difference"]
    lines += [
        f"{name:{width}} {written(name, ours[name].value)}  {written(name, theirs[name].value)}  "
        f"{written(name, d.value, True)} [{written(name, d.low, True)}, "
        f"{written(name, d.high, True)}]  {d.verdict}"
        for name, d in differences.items()
    ]
    return "\n".join(lines)


def conclusion(differences: Mapping[str, Difference]) -> str:
    """What got better, what got worse, and how much of that chance alone would show."""
    by_verdict: dict[str, list[str]] = {"better": [], "worse": [], "changed": []}
    for name, difference in differences.items():
        by_verdict.setdefault(difference.verdict, []).append(name)
    said = [f"{word}: {', '.join(names)}" for word, names in list(by_verdict.items())[:3] if names]
    chance = f"of {len(differences)} figures, chance alone would show {len(differences) / 20:.1f}"
    return "\n".join([*(said or ["nothing differs beyond noise"]), f"({chance})"])
