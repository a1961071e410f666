"""Whether two frames look the same: the largest change of any cell of a small grey thumbnail.

A mean over the whole picture would hide a small thing that moved; the noise of a sensor averages
out within each cell. The pixels compared are those that the model would see.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import ImageTransform

CELLS = 16  # each way

Thumbnail = npt.NDArray[np.float32]


def thumbnail(pixel_values: npt.NDArray[np.float32], transform: ImageTransform) -> Thumbnail:
    """pixel_values [1, 3, H, W] -> [16, 16] grey levels 0..255, the mean of each cell."""
    cv2 = require("cv2", "cpu")
    # Undoes the normalisation of the mean of R, G and B, all three in one sum.
    weight = np.array(transform.std, np.float32) * (255 / 3)
    grey = np.tensordot(weight, pixel_values[0], axes=1) + np.float32(np.mean(transform.mean) * 255)
    out: Thumbnail = cv2.resize(grey, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    return out


def difference(one: Thumbnail, other: Thumbnail) -> float:
    """0..255: by how many grey levels the cell that changed most has changed."""
    return float(np.abs(one - other).max())


def check_similar(threshold: float | None) -> None:
    """Raise UsageError for what is no threshold of `difference`."""
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise UsageError(
            f"similar is {threshold}: give the grey levels (0..255) by which a part of the frame "
            "may differ, e.g. 4, or None"
        )
