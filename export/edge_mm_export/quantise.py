"""Round-to-nearest 8-bit weights, in the two layouts that the `cpu` target stores.

Blocks follow ONNX Runtime's `com.microsoft::MatMulNBits`: a weight [N, K] becomes uint8
[N, ceil(K/block), block] with one float scale a block and the implied zero point 128.
Channels follow ONNX `DequantizeLinear`: int8 with one scale an output channel, zero point 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BLOCK = 32
ZERO_POINT = 128  # what MatMulNBits assumes for 8 bits when no zero points are given
_LARGEST = 127

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BlockWeight:
    """A weight [N, K] quantised in blocks along K."""

    values: npt.NDArray[np.uint8]  # [N, blocks, BLOCK]
    scales: FloatArray  # [N, blocks]
    columns: int  # K, before the last block was padded

    def dequantise(self) -> FloatArray:
        """The float weight [N, K] that the kernel multiplies by, up to its activation rounding."""
        centred = self.values.astype(np.float32) - ZERO_POINT
        full = (centred * self.scales[..., None]).reshape(len(self.values), -1)
        return full[:, : self.columns]


def quantise_blocks(weight: npt.NDArray[np.floating]) -> BlockWeight:
    """Quantise [N, K] symmetrically in blocks of 32 columns; K is padded with zeros."""
    rows, columns = weight.shape
    padding = -columns % BLOCK
    padded = np.pad(np.asarray(weight, np.float32), ((0, 0), (0, padding)))
    blocks = padded.reshape(rows, -1, BLOCK)
    scales = _scales(np.abs(blocks).max(axis=2))
    values = np.rint(blocks / scales[..., None]) + ZERO_POINT
    return BlockWeight(values.astype(np.uint8), scales, columns)


def quantise_channels(
    weight: npt.NDArray[np.floating], axis: int
) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Quantise symmetrically with one scale for each index of `axis`: (int8 values, scales)."""
    exact = np.asarray(weight, np.float32)
    others = tuple(i for i in range(exact.ndim) if i != axis)
    scales = _scales(np.abs(exact).max(axis=others))
    shape = [-1 if i == axis else 1 for i in range(exact.ndim)]
    return np.rint(exact / scales.reshape(shape)).astype(np.int8), scales


def _scales(largest: FloatArray) -> FloatArray:
    return np.where(largest == 0, 1.0, largest / _LARGEST).astype(np.float32)
