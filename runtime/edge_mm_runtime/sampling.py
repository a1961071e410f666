"""Which of the allowed ids comes next: the likeliest one, or one drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.confidence import Floats, softmax
from edge_mm_runtime.errors import UsageError

Pick = Callable[[npt.NDArray[np.float32]], int]
"""From logits [V], -inf where not allowed, to an allowed id."""


def greedy(logits: Floats) -> int:
    """The likeliest id."""
    return int(logits.argmax())


class Sampler:
    """Draws from softmax(logits / temperature); the same seed draws the same ids.

    temperature  above 0; 1 is the model's own distribution, less is surer, more is more varied
    seed         None: another one each time
    """

    def __init__(self, temperature: float, seed: int | None = None) -> None:
        self._temperature = temperature
        self._random = np.random.Generator(np.random.PCG64(seed))

    def __call__(self, logits: Floats) -> int:
        """An id that is allowed, drawn."""
        below = logits.astype(np.float64) - logits.max()  # 0 for the likeliest: no overflow
        with np.errstate(over="ignore"):
            total = np.cumsum(softmax(below / self._temperature))
        # "right": an id of probability 0 adds nothing to the sum and is passed over.
        return int(np.searchsorted(total, self._random.random() * total[-1], side="right"))


def open_pick(temperature: float, seed: int | None) -> Pick:
    """Greedy at temperature 0, else a Sampler. UsageError for what is no temperature or seed."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(
            f"temperature is {temperature}: give 0 for the likeliest answer, or a positive number"
        )
    if seed is not None and seed < 0:
        raise UsageError(f"seed is {seed}: give 0 or a positive number")
    return Sampler(temperature, seed) if temperature else greedy
