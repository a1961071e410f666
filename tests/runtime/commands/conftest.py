"""A small video, for the commands that take a source."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds at 30 frames a second: a grey field with a red square that moves right."""
    path = tmp_path / "in.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (96, 64))
    rng = np.random.default_rng(0)
    field = rng.integers(80, 140, (64, 96, 3), dtype=np.uint8)
    square = rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
    for index in range(60):
        frame = field.copy()
        frame[20:40, 10 + index // 2 : 30 + index // 2] = square
        writer.write(frame)
    writer.release()
    return path
