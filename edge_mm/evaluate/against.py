"""Two models on the same questions: what got better or worse, and whether it is more than noise.

Paired bootstrap: both models are measured on the same draws of pictures, so what makes a picture
hard for both of them cancels (Efron & Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from edge_mm.evaluate.catalogue import about
from edge_mm.evaluate.metrics import Figure, draws, interval

NOISE = "no difference beyond noise"
# With fewer pictures that differ, no two-sided sign test could reach 5 % either: 2 * 0.5**5 > 0.05.
FEWEST = 6


class Difference(msgspec.Struct, frozen=True):
    """This model's figure minus the other's, its 95 % interval, and what that means.

    verdict  better | worse | changed (where neither direction is the better one) | NOISE
    """

    value: float
    low: float
    high: float
    verdict: str


def compare(
    ours: Mapping[str, Figure], theirs: Mapping[str, Figure], pictures: int, seed: int = 0
) -> dict[str, Difference]:
    """The figures that both have, over the same pictures."""
    drawn, everything = draws(pictures, seed), np.arange(pictures)
    differences = {}
    for name in ours.keys() & theirs.keys():
        a, b = ours[name], theirs[name]
        value = float((a.of(everything[None]) - b.of(everything[None]))[0])
        low, high = interval(value, a.of(drawn) - b.of(drawn), a.skewed)
        alone = everything[:, None]
        differing = pictures if a.skewed else np.count_nonzero(a.of(alone) - b.of(alone))
        beyond = differing >= FEWEST and (low > 0 or high < 0)
        differences[name] = Difference(
            round(value, 4),
            round(low, 4),
            round(high, 4),
            _verdict(name, value) if beyond else NOISE,
        )
    return dict(sorted(differences.items()))


def _verdict(name: str, value: float) -> str:
    direction = about(name).better
    if direction == 0:
        return "changed"
    return "better" if value * direction > 0 else "worse"
