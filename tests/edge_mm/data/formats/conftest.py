"""Tiny sources: noisy pictures, and the files that speak of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

WIDTH, HEIGHT = 120, 80


@pytest.fixture()
def pictures(tmp_path: Path) -> Path:
    """a.png, b.png and c.png of 120 x 80."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        frame = noise.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), frame)
    return folder


@pytest.fixture()
def file(tmp_path: Path) -> Callable[[str, Any], Path]:
    """Write a text, bytes, or anything else as JSON."""

    def write(name: str, content: Any) -> Path:
        path = tmp_path / name
        if not isinstance(content, bytes):
            content = (content if isinstance(content, str) else json.dumps(content)).encode()
        path.write_bytes(content)
        return path

    return write


@pytest.fixture()
def coco() -> dict[str, Any]:
    """Two good objects in a.png and one in b.png; c.png is empty."""
    return {
        "images": [
            {"id": 10 * n, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
            for n, name in enumerate("abc", 1)
        ],
        "categories": [{"id": 1, "name": "Red Mug"}, {"id": 7, "name": "teddy_bear"}],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 1, "bbox": [10.5, 20, 30, 40.25]},
            {"id": 2, "image_id": 10, "category_id": 7, "bbox": [60, 5, 20, 10]},
            {"id": 3, "image_id": 20, "category_id": 7, "bbox": [0, 0, 60, 30]},
        ],
    }
