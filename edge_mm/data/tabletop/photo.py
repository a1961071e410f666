"""What a cheap camera does to a clean render: exposure, white balance, vignette, blur, noise."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mm.data.tabletop.textures import Image


def develop(image: Image, rng: np.random.Generator) -> Image:
    """An RGB uint8 picture after a random, mild camera pipeline."""
    height, width = image.shape[:2]
    photo: NDArray[Any] = image.astype(np.float32) / 255
    mean = float(photo.mean())
    target = float(np.clip(mean * rng.uniform(0.85, 1.25), 0.3, 0.66))
    photo *= float(np.clip(target / max(mean, 0.02), 0.7, 1.35))
    warm = rng.normal(0, 0.035)
    photo *= np.array([1 + warm, 1 + rng.normal(0, 0.012), 1 - warm], np.float32)
    if rng.random() < 0.5:
        x = np.linspace(-1, 1, width, dtype=np.float32)[None] - rng.uniform(-0.2, 0.2)
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - rng.uniform(-0.2, 0.2)
        photo *= (1 - rng.uniform(0, 0.22) * (x * x + y * y))[..., None]
    photo = np.clip(photo, 0, 1) ** np.float32(rng.uniform(0.85, 1.18))
    if rng.random() < 0.6:
        contrast = rng.uniform(0.88, 1.15)
        photo = (photo - 0.45) * contrast + 0.45
        gray = photo.mean(2, keepdims=True)
        photo = gray + (photo - gray) * rng.uniform(0.85, 1.15)
    blur = rng.random()
    if blur < 0.35:
        photo = cv2.GaussianBlur(photo, (0, 0), rng.uniform(0.3, 1.1))
    elif blur < 0.42:
        length = int(rng.integers(3, 6))
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1 / length
        photo = cv2.filter2D(photo, -1, kernel if rng.random() < 0.5 else kernel.T)
    if rng.random() < 0.6:
        noise = rng.standard_normal((height, width, 3), dtype=np.float32)
        photo = photo + noise * np.float32(rng.uniform(0.004, 0.03))
    return np.asarray(np.clip(photo * 255 + 0.5, 0, 255), np.uint8)
