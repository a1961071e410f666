"""Scores -> figures with confidence intervals, by bootstrap over pictures.

Questions about one picture are not independent, so whole pictures are drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

RESAMPLES = 500


class Metric(msgspec.Struct, frozen=True):
    """A figure in 0..1, the bounds of its 95 % interval, and the number of questions."""

    value: float
    low: float
    high: float
    n: int


def summarise(pictures: Sequence[Sequence[dict[str, float]]], seed: int = 0) -> dict[str, Metric]:
    """Scores by picture and question -> metrics by name."""
    rng = np.random.default_rng(seed)
    names = sorted({name for picture in pictures for scores in picture for name in scores})
    sums = {
        name: np.array([sum(s.get(name, 0.0) for s in picture) for picture in pictures])
        for name in names
    }
    counts = {
        name: np.array([sum(name in s for s in picture) for picture in pictures]) for name in names
    }
    draws = rng.integers(0, len(pictures), (RESAMPLES, len(pictures))) if pictures else None
    metrics = {}
    for name in names:
        if "." not in name:
            metrics[name] = _metric(sums[name], counts[name], draws, int(counts[name].sum()))
    if "exist_f1.hit" in sums:
        metrics["exist_f1"] = _metric(
            2 * sums["exist_f1.hit"],
            sums["exist_f1.said"] + sums["exist_f1.true"],
            draws,
            int(counts["exist_f1.hit"].sum()),
        )
    return dict(sorted(metrics.items()))


def _metric(above: np.ndarray, below: np.ndarray, draws: np.ndarray | None, n: int) -> Metric:
    """The ratio of two sums over pictures, with the spread over the draws."""
    value = above.sum() / max(below.sum(), 1e-9)
    resampled = above[draws].sum(1) / np.maximum(below[draws].sum(1), 1e-9)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Metric(round(float(value), 4), round(float(low), 4), round(float(high), 4), n)
