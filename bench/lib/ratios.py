"""Medians, their spread, and ratios of what was measured in the same rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 2000
LEVEL = 95.0  # per cent of the interval


class Spread(NamedTuple):
    """Median and half of the range between the quartiles."""

    middle: float
    half: float

    def __str__(self) -> str:
        digits = 0 if self.middle >= 100 else 1 if self.middle >= 10 else 2
        spread = f" ± {self.half:.{digits}f}" if self.half else ""
        return f"{self.middle:.{digits}f}{spread}"


class Ratio(NamedTuple):
    """Of two medians, with the bounds of its interval; both None where there was one round."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: Sequence[float]) -> Spread:
    """Quartiles by linear interpolation."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Spread(float(middle), float(high - low) / 2)


def paired_ratio(these: Sequence[float], those: Sequence[float], seed: int = 0) -> Ratio:
    """median(these) / median(those), with a bootstrap interval (Efron 1979, percentiles).

    Both are of the same rounds, and whole rounds are drawn: what slowed both down in one round
    stays in one draw. ValueError if they are not of the same length.
    """
    a, b = np.asarray(these, np.float64), np.asarray(those, np.float64)
    if a.shape != b.shape or not a.size:
        raise ValueError(f"{a.size} figures beside {b.size}: give those of the same rounds")
    value = float(np.median(a) / np.median(b))
    if a.size == 1:
        return Ratio(value)
    drawn = np.random.default_rng(seed).integers(0, a.size, (DRAWS, a.size))
    ratios = np.median(a[drawn], axis=1) / np.median(b[drawn], axis=1)
    low, high = np.percentile(ratios, [50 - LEVEL / 2, 50 + LEVEL / 2])
    return Ratio(value, float(low), float(high))
