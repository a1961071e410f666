"""Round-to-nearest weights, in the layouts that the targets store.

A weight [N, K] is quantised symmetrically, zero point 0, either in blocks of its K inputs
(int8, int4) or with one scale for each of its N output channels (int8, float8). Scales are
rounded up to the type that they are stored in before the weight is divided by them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edge_mm_export.precision import BLOCK

_AT_ONCE = 1 << 22  # elements
FP8_LARGEST = 448.0  # of float8 e4m3 without infinities
INT8_LARGEST = 127

FloatArray = npt.NDArray[np.float32]
FLOAT32: np.dtype[Any] = np.dtype(np.float32)


@dataclass(frozen=True)
class BlockWeight:
    """A weight [N, K] quantised in blocks along K, in 8 or 4 bits."""

    values: npt.NDArray[np.int8]  # [N, blocks, block]
    scales: FloatArray  # [N, blocks], all positive
    columns: int  # K, before the last block was padded
    bits: int

    @property
    def block(self) -> int:
        """How many inputs share a scale."""
        return int(self.values.shape[2])

    def dequantise(self) -> FloatArray:
        """The float weight [N, K] that the kernel multiplies by, up to its activation rounding."""
        full = (self.values * self.scales[..., None]).reshape(len(self.values), -1)
        return full[:, : self.columns].astype(np.float32)

    def packed(self) -> npt.NDArray[np.uint8]:
        """As `com.microsoft::MatMulNBits` stores it: uint8 [N, blocks, block * bits / 8].

        The zero point that it assumes, half of the range, is added; of two 4-bit values that
        share a byte the first one lies in the low half.
        """
        if self.bits == 8:
            return self.values.view(np.uint8) ^ np.uint8(128)  # 128 added, without a wider copy
        shifted = (self.values + np.int8(8)).view(np.uint8)
        pairs: npt.NDArray[np.uint8] = shifted[..., 0::2] | (shifted[..., 1::2] << np.uint8(4))
        return pairs

    def transposed(self) -> tuple[npt.NDArray[Any], FloatArray]:
        """As `DequantizeLinear` takes it on axis 0: (values [K, N], scales [blocks, N])."""
        values = self.values.reshape(len(self.values), -1)[:, : self.columns].T
        return values.astype(ml_dtypes.int4 if self.bits == 4 else np.int8), self.scales.T


def quantise_blocks(
    weight: npt.NDArray[np.floating],
    bits: int = 8,
    scale_type: np.dtype[Any] = FLOAT32,
    block: int = BLOCK,
) -> BlockWeight:
    """Quantise [N, K] in blocks of columns; K is padded with zeros."""
    rows, columns = weight.shape
    padding = -columns % block
    count = (columns + padding) // block
    values = np.empty((rows, count, block), np.int8)
    scales = np.empty((rows, count), np.float32)
    step = max(1, _AT_ONCE // (columns + padding))
    for start in range(0, rows, step):  # a table of words is too large for copies in fp32
        part = slice(start, start + step)
        padded = np.pad(np.asarray(weight[part], np.float32), ((0, 0), (0, padding)))
        blocks = padded.reshape(-1, count, block)
        scales[part] = _scales(np.abs(blocks).max(axis=2), (1 << bits - 1) - 1, scale_type)
        values[part] = np.rint(blocks / scales[part, :, None])
    return BlockWeight(values, scales, columns, bits)


def quantise_channels(
    weight: npt.NDArray[np.floating], axis: int, scale_type: np.dtype[Any] = FLOAT32
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Quantise to int8 with one scale for each index of `axis`: (int8 values, scales)."""
    divided, scales = _by_channel(weight, axis, INT8_LARGEST, scale_type)
    return np.rint(divided).astype(np.int8), scales


def quantise_fp8(
    weight: npt.NDArray[np.floating], axis: int, scale_type: np.dtype[Any] = FLOAT32
) -> tuple[npt.NDArray[Any], FloatArray]:
    """Quantise to float8 e4m3 with one scale for each index of `axis`: (values, scales)."""
    divided, scales = _by_channel(weight, axis, FP8_LARGEST, scale_type)
    return divided.astype(ml_dtypes.float8_e4m3fn), scales


def _by_channel(
    weight: npt.NDArray[np.floating], axis: int, limit: float, scale_type: np.dtype[Any]
) -> tuple[FloatArray, FloatArray]:
    """(weight divided by its scales, so that it is within +-limit; scales)."""
    exact = np.asarray(weight, np.float32)
    others = tuple(i for i in range(exact.ndim) if i != axis)
    scales = _scales(np.abs(exact).max(axis=others), limit, scale_type)
    shape = [-1 if i == axis else 1 for i in range(exact.ndim)]
    return exact / scales.reshape(shape), scales


def _scales(largest: FloatArray, limit: float, stored: np.dtype[Any]) -> FloatArray:
    """Scales that `stored` can hold, such that `largest` is within +-limit of them."""
    exact = np.where(largest == 0, 1.0, largest / limit).astype(np.float32)
    rounded = exact.astype(stored)
    up = np.nextafter(rounded, np.array(np.inf, stored))
    return np.where(rounded < exact, up, rounded).astype(np.float32)
