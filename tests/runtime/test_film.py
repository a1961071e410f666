"""A video file is whole, or it is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime.errors import ImageError, UsageError
from edge_mm_runtime.film import Film
from edge_mm_runtime.image import write_image

PICTURES = np.random.default_rng(0).integers(0, 255, (40, 240, 320, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["film.avi", "film.mp4", "film.mkv"])
def test_a_film_on_a_full_disk_leaves_the_one_before(
    tmp_path: Path, name: str, small_files: None
) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    film = Film(path, 30.0)
    with pytest.raises(UsageError, match="could not be written to its end: is the disk full"), film:
        for picture in PICTURES:
            film.write(picture, None)
    assert [(left.name, left.read_bytes()) for left in tmp_path.iterdir()] == [(name, b"before")]


def test_a_picture_on_a_full_disk_leaves_the_one_before(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"before")
    with pytest.raises(ImageError, match=r"cannot write .*picture.png: File too large"):
        write_image(path, PICTURES[0])
    assert [left.read_bytes() for left in tmp_path.iterdir()] == [b"before"]
