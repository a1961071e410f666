"""Gradients without autograd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

Gradient = Callable[[Callable[[np.ndarray], float], np.ndarray], np.ndarray]


@pytest.fixture
def numeric_gradient() -> Gradient:
    """Central differences of a float64 function, value by value."""

    def gradient(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
        result = np.zeros_like(at)
        for index in np.ndindex(at.shape):
            step = np.zeros_like(at)
            step[index] = 1e-5
            result[index] = (function(at + step) - function(at - step)) / 2e-5
        return result

    return gradient
