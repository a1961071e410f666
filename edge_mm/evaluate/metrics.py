"""Scores -> figures with confidence intervals, by bootstrap over pictures.

Questions about one picture are not independent, so whole pictures are drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

RESAMPLES = 500
PERCENTILES = (2.5, 97.5)

Scores = dict[str, float]


class Metric(msgspec.Struct, frozen=True):
    """A figure, the bounds of its 95 % interval, and the number of questions behind it."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Figure:
    """A figure as a function of the pictures that count, so that they can be drawn again.

    of      indices of pictures with repeats, [R,P] -> values [R]
    n       how many questions, objects or pictures it is made of
    skewed  repeats alone shift it (a rank, a distance of means): its interval is moved back by the
            mean shift
    """

    of: Callable[[np.ndarray], np.ndarray]
    n: int
    skewed: bool = False


def ratio(above: np.ndarray, below: np.ndarray, n: int) -> Figure:
    """The ratio of two sums over pictures, each [P]."""
    return Figure(
        lambda drawn: above[drawn].sum(-1) / np.maximum(below[drawn].sum(-1), 1e-9),
        n,
    )


def one_by_one(of: Callable[[np.ndarray], float], n: int) -> Figure:
    """A figure that is no ratio: `of` takes the indices of one draw, [P]."""
    return Figure(lambda drawn: np.array([of(row) for row in drawn]), n, skewed=True)


def figures(pictures: Sequence[Sequence[Scores]]) -> dict[str, Figure]:
    """Scores by picture and question -> means by name.

    NAME.hit, NAME.said and NAME.true make one figure NAME: F1 = 2 hit / (said + true).
    """
    names = sorted({name for picture in pictures for scores in picture for name in scores})
    sums = {
        name: np.array([sum(s.get(name, 0.0) for s in picture) for picture in pictures])
        for name in names
    }
    counts = {
        name: np.array([sum(name in s for s in picture) for picture in pictures]) for name in names
    }
    found = {}
    for name in names:
        stem = name.removesuffix(".hit")
        if "." not in name:
            found[name] = ratio(sums[name], counts[name], int(counts[name].sum()))
        elif stem != name:
            wanted = sums[f"{stem}.said"] + sums[f"{stem}.true"]
            found[stem] = ratio(2 * sums[name], wanted, int(counts[name].sum()))
    return dict(sorted(found.items()))


def draws(pictures: int, seed: int) -> np.ndarray:
    """The bootstrap's indices, [RESAMPLES, pictures]; the same ones for the same seed."""
    return np.random.default_rng(seed).integers(0, pictures, (RESAMPLES, pictures))


def interval(value: float, drawn: np.ndarray, skewed: bool) -> tuple[float, float]:
    """The 95 % interval of a figure from its values over the draws."""
    low, high = np.percentile(drawn, PERCENTILES) - (drawn.mean() - value if skewed else 0.0)
    return float(low), float(high)


def measure(found: Mapping[str, Figure], pictures: int, seed: int = 0) -> dict[str, Metric]:
    """Figures over so many pictures -> metrics by name."""
    metrics = {}
    for name, figure in found.items():
        value = float(figure.of(np.arange(pictures)[None])[0])
        low, high = interval(value, figure.of(draws(pictures, seed)), figure.skewed)
        metrics[name] = Metric(round(value, 4), round(low, 4), round(high, 4), figure.n)
    return metrics


def summarise(pictures: Sequence[Sequence[Scores]], seed: int = 0) -> dict[str, Metric]:
    """Scores by picture and question -> metrics by name."""
    return measure(figures(pictures), len(pictures), seed)
