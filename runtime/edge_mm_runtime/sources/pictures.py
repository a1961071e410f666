"""Picture files as frames: a folder, a pattern, one picture; with depth pictures beside them."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import Any

import numpy as np

from edge_mm_runtime.errors import ImageError, SourceError
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import read_image
from edge_mm_runtime.sources.grab import Grab, as_grab
from edge_mm_runtime.space import Depth

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
DEPTHS = (".png", ".tif", ".tiff", ".npy")
NUMBER = re.compile(r"%(0(\d+))?d")  # of printf: %d or %04d


class PictureFrames:
    """Picture files in order; frame_id is the file's name.

    depths        as many depth files, the first one belongs to the first picture
    frames_per_s  gives them times: index / frames_per_s
    """

    def __init__(
        self,
        paths: list[Path],
        depths: list[Path] | None = None,
        frames_per_s: float | None = None,
    ) -> None:
        if depths is not None and len(depths) != len(paths):
            raise SourceError(
                f"{len(paths)} pictures and {len(depths)} depth files: each picture needs its own"
            )
        self._paths = paths
        self._depths = depths
        self._frames_per_s = frames_per_s
        self._index = -1

    def __next__(self) -> Grab:
        self._index += 1
        if self._index >= len(self._paths):
            raise StopIteration
        path = self._paths[self._index]
        item: Any = read_image(path)
        if self._depths is not None:
            item = (item, read_depth(self._depths[self._index]))
        time_s = None if self._frames_per_s is None else self._index / self._frames_per_s
        return as_grab(item, path.name, time_s)

    def close(self) -> None:
        """Nothing is held open."""


def picture_paths(text: str, suffixes: tuple[str, ...] = PICTURES) -> list[Path] | None:
    """Files of a folder, "frames/*.jpg", "frames/%04d.jpg", or one picture; None: not pictures.

    A folder's and a glob's are in the order of their names, a printf pattern's in the order of
    their numbers, however they begin and with gaps. SourceError when there are none.
    """
    path = Path(text).expanduser()
    if path.is_dir():
        inside = _chosen(path.iterdir(), suffixes)
        if not inside:
            raise SourceError(f"no pictures in {path}: it needs {', '.join(suffixes)} files")
        return inside
    if path.is_file():
        return [path] if path.suffix.lower() in suffixes else None
    if NUMBER.search(path.name):
        matches = _numbered(path)
    elif glob.has_magic(text):
        found = glob.glob(str(path))  # noqa: PTH207 - absolute ones too
        matches = _chosen(map(Path, found), suffixes)
    else:
        return None
    if not matches:
        raise SourceError(f"no picture matches {text}")
    return matches


def read_depth(path: Path) -> Depth:
    """Depth file -> [H, W] uint16 millimetres (16-bit PNG) or float metres (TIFF, .npy).

    Raises ImageError for a file that cannot be read; the kind of its numbers is checked later.
    """
    if path.suffix.lower() == ".npy":
        try:
            depth: Depth = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise ImageError(f"cannot read the depth {path}") from None
        return depth
    cv2 = require("cv2", "cpu")
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        pixels: Depth | None = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise ImageError(f"cannot read the depth {path}")
    return pixels


def _chosen(paths: Any, suffixes: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in suffixes and path.is_file())


def _numbered(path: Path) -> list[Path]:
    """Files of a printf pattern, by number: %04d is four digits or more, %d has no leading 0."""
    number = NUMBER.search(path.name)
    if number is None or not path.parent.is_dir():
        return []
    width = int(number[2] or 1)
    before, after = path.name[: number.start()], path.name[number.end() :]
    name = re.compile(f"{re.escape(before)}(\\d+){re.escape(after)}")
    numbered = []
    for item in path.parent.iterdir():
        match = name.fullmatch(item.name)
        if match and f"{int(match[1]):0{width}d}" == match[1]:
            numbered.append((int(match[1]), item))
    return [item for _, item in sorted(numbered)]
