"""GPTQ (Frantar et al., arXiv 2210.17323): block weights whose later columns make up for rounding.

Columns are rounded one by one, and what each one loses is taken out of those that are still to
come, as the inputs' Hessian 2 X^T X says. The order of columns stays (no act-order), for a block
shares one scale. Where the paper takes a block's scale from its largest weight, some smaller ones
that clip it are tried out too, and each row keeps the one that costs it least.

ONNX Runtime's GPTQWeightOnlyQuantConfig needs no further package either, but it ends by rounding
to scales other than those that it compensated for, and fits no layer to the quantised ones before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_mm_export.errors import ExportError
from edge_mm_export.precision import BLOCK
from edge_mm_export.quantise import FLOAT32, BlockWeight, quantise_blocks

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of its mean: the paper's choice."""
SHRINKAGE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Scales that are tried, as shares of the one that clips nothing."""

Float64Array = npt.NDArray[np.float64]


def gptq(
    weight: npt.NDArray[np.floating],
    hessian: npt.NDArray[np.floating],
    *,
    bits: int = 4,
    damping: float = DAMPING,
    shrinkage: Sequence[float] = SHRINKAGE,
    scale_type: np.dtype[Any] = FLOAT32,
    block: int = BLOCK,
) -> BlockWeight:
    """Quantise [N, K], whose inputs have the Hessian [K, K], in blocks of columns.

    Only the Hessian's proportions count; inputs that it has never seen (rows of zeros) are rounded
    to nearest. `damping` must be positive. ExportError for a Hessian of another size or with
    values that are not finite.
    """
    rows, columns = weight.shape
    if hessian.shape != (columns, columns):
        raise ExportError(f"the Hessian of {columns} inputs is {hessian.shape}")
    if not np.isfinite(hessian).all():
        raise ExportError("the Hessian is not finite: so were not the inputs of this linear")
    padding = -columns % block
    left = np.pad(np.asarray(weight, np.float64), ((0, 0), (0, padding)))
    factor = _inverse_factor(np.pad(np.asarray(hessian, np.float64), (0, padding)), damping)
    number = left.shape[1] // block
    values = np.empty((rows, number, block), np.int8)
    scales = np.empty((rows, number), np.float32)
    for index in range(number):
        here, later = slice(index * block, (index + 1) * block), slice((index + 1) * block, None)
        exact = left[:, here]
        widest = quantise_blocks(exact, bits, scale_type, block).scales[:, 0]
        lost = np.empty_like(exact)
        lowest = np.full(rows, np.inf)
        for share in shrinkage:
            tried = (share * widest).astype(scale_type).astype(np.float32)
            rounded, errors = _round(exact, tried, factor[here, here], bits)
            cost = np.square(errors).sum(axis=1)
            better = cost < lowest
            lowest[better] = cost[better]
            values[better, index] = rounded[better]
            scales[better, index] = tried[better]
            lost[better] = errors[better]
        left[:, later] -= lost @ factor[here, later]
    return BlockWeight(values, scales, columns, bits)


def _inverse_factor(hessian: Float64Array, damping: float) -> Float64Array:
    """The upper triangular U of the damped Hessian's inverse U^T U."""
    mean = float(np.diag(hessian).mean())
    damped = hessian + np.eye(len(hessian)) * (damping * mean if mean > 0 else 1.0)
    # The factor R of H = R R^T is upper triangular if columns are taken from the last one on.
    backwards = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    return np.linalg.inv(backwards)


def _round(
    exact: Float64Array, scales: npt.NDArray[np.float32], factor: Float64Array, bits: int
) -> tuple[Float64Array, Float64Array]:
    """Columns of a block [N, B], one after the other: (values, errors), both [N, B].

    An error is what was lost, in units of the factor's diagonal: the sum of their squares is what
    a row's outputs lose, once all later columns have made up for what they can.
    """
    half = 1 << bits - 1
    left = np.ascontiguousarray(exact.T)
    values, errors = np.empty_like(left), np.empty_like(left)
    for j in range(len(left)):
        values[j] = np.rint(left[j] / scales).clip(-half, half - 1)
        errors[j] = (left[j] - values[j] * scales) / factor[j, j]
        left[j + 1 :] -= factor[j, j + 1 :, None] * errors[j]
    return values.T, errors.T
