"""A scene seen anew: another crop, mirrored, in another light, with its labels made to match.

Questions are made after this step, so "left" is left in what the model sees.
"""

from __future__ import annotations

import random
from dataclasses import replace

import cv2
import numpy as np

from edge_mm.data.scenes import Seen

MIN_VISIBLE = 0.15  # objects that a crop leaves less of are no longer labelled
MIN_PIXELS = 40


def crop_and_flip(
    frame: np.ndarray, segmentation: np.ndarray, objects: list[Seen], rng: random.Random
) -> tuple[np.ndarray, np.ndarray, list[Seen]]:
    """frame [H,W,3], segmentation [H,W] of ids -> the same for a random window, maybe mirrored."""
    height, width = segmentation.shape
    if rng.random() < 0.5:
        area, aspect = rng.uniform(0.4, 1.0), rng.uniform(0.75, 1.33)
        w = min(width, max(48, int(width * (area * aspect) ** 0.5)))
        h = min(height, max(48, int(height * (area / aspect) ** 0.5)))
        x, y = rng.randint(0, width - w), rng.randint(0, height - h)
        if objects:  # keep something in the window most of the time
            cx, cy = rng.choice(objects).centre
            x = min(max(x, int(cx * width) - w + 8), max(int(cx * width) - 8, 0))
            y = min(max(y, int(cy * height) - h + 8), max(int(cy * height) - 8, 0))
            x, y = min(max(x, 0), width - w), min(max(y, 0), height - h)
        before = np.bincount(segmentation.ravel(), minlength=256)
        frame, segmentation = frame[y : y + h, x : x + w], segmentation[y : y + h, x : x + w]
        after = np.bincount(segmentation.ravel(), minlength=256)
        objects = [
            _cropped(
                item,
                segmentation,
                after[item.id] / max(before[item.id], 1),
                (x, y, w, h),
                (width, height),
            )
            for item in objects
            if after[item.id] >= MIN_PIXELS
            and item.visible * after[item.id] / max(before[item.id], 1) >= MIN_VISIBLE
        ]
    if rng.random() < 0.5:
        frame, segmentation = frame[:, ::-1], segmentation[:, ::-1]
        objects = [_mirrored(item) for item in objects]
    return np.ascontiguousarray(frame), np.ascontiguousarray(segmentation), objects


def _cropped(
    item: Seen,
    segmentation: np.ndarray,
    kept: float,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
) -> Seen:
    x, y, w, h = window
    width, height = size

    def move(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(
            ((v * width - x) / w) if i % 2 == 0 else ((v * height - y) / h)
            for i, v in enumerate(values)
        )

    box, point = move(item.box), move(item.point)
    if kept < 1.0:
        mask = segmentation == item.id
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        box = (columns[0] / w, rows[0] / h, (columns[-1] + 1) / w, (rows[-1] + 1) / h)
        if not (0 <= point[0] < 1 and 0 <= point[1] < 1):
            inside = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)
            row, column = np.unravel_index(int(inside.argmax()), inside.shape)
            point = ((column - 0.5) / w, (row - 0.5) / h)
    return replace(item, box=box, point=point, base=move(item.base), visible=item.visible * kept)


def _mirrored(item: Seen) -> Seen:
    x1, y1, x2, y2 = item.box
    return replace(
        item,
        box=(1 - x2, y1, 1 - x1, y2),
        point=(1 - item.point[0], item.point[1]),
        base=(1 - item.base[0], item.base[1]),
    )


def relight(frame: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another exposure, contrast, white balance and saturation; noise, blur, JPEG. BGR uint8."""
    noise = np.random.default_rng(rng.getrandbits(32))
    steps = np.arange(256, dtype=np.float32) / 255
    gamma, gain, lift = rng.uniform(0.8, 1.25), rng.uniform(0.85, 1.15), rng.uniform(-0.04, 0.04)
    tint = [rng.uniform(0.95, 1.05) for _ in range(3)]
    curve = np.stack([np.clip(steps**gamma * gain * t + lift, 0, 1) for t in tint], -1) * 255
    frame = cv2.LUT(frame, curve.astype(np.uint8)[None])
    if rng.random() < 0.5:
        gray = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
        keep = rng.uniform(0.85, 1.2)
        frame = cv2.addWeighted(frame, keep, gray, 1 - keep, 0)
    if rng.random() < 0.3:
        frame = cv2.GaussianBlur(frame, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.4:
        sigma = rng.uniform(1, 9)
        grain = noise.standard_normal(frame.shape, dtype=np.float32) * sigma
        frame = np.clip(frame + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = rng.randint(30, 90)
        frame = cv2.imdecode(
            cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
        )
    return frame
