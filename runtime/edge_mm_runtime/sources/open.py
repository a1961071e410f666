"""Where frames come from: a camera, a video file or stream, pictures.

with open_source("0") as source:
    for frame, timestamp_s, frame_id in source: ...

A live source gives the newest frame only: what came while the last one was being answered is
dropped, so an answer is never about a frame older than needed. A file gives every frame, in order.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from edge_mm_runtime.errors import ImageError, SourceError
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame, read_image

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
SILENCE_S = 5.0  # a live source that gives nothing for so long has failed


class Grab(NamedTuple):
    """One frame.

    timestamp_s  live: when it was taken, on time.monotonic's clock; video file: its position;
                 pictures: None
    frame_id     counts from 0; a picture's is its file name
    """

    frame: Frame
    timestamp_s: float | None
    frame_id: int | str


class Source:
    """An opened source: a context manager and an iterator of Grab."""

    live = False
    frames_per_s: float | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Grab]:
        raise NotImplementedError

    def close(self) -> None:
        """Release the device or file."""


def open_source(spec: str | int) -> Source:
    """Open a camera index ("0"), a stream URL, a video file, a folder, a picture, or a pattern.

    A pattern is shell-like: "frames/*.jpg". SourceError says what cannot be opened and why.
    """
    text = str(spec).strip()
    if text.isdigit():
        return Live(_capture(int(text), f"camera {text}"), f"camera {text}")
    if "://" in text:
        return Live(_capture(text, text), text)
    path = Path(text).expanduser()
    if path.is_dir():
        inside = sorted(item for item in path.iterdir() if item.suffix.lower() in PICTURES)
        if not inside:
            raise SourceError(f"no pictures in {path}: it needs {', '.join(PICTURES)} files")
        return Pictures(inside)
    if path.is_file():
        if path.suffix.lower() in PICTURES:
            return Pictures([path])
        return Video(_capture(str(path), f"video {path}"), path)
    if glob.has_magic(text):
        matches = sorted(Path(item) for item in glob.glob(str(path)))  # noqa: PTH207 - absolute too
        if not matches:
            raise SourceError(f"no picture matches {text}")
        return Pictures(matches)
    raise SourceError(
        f"no such source: {text!r}: give a camera index (0), a video file, a folder of pictures, "
        "a pattern such as 'frames/*.jpg', or a stream URL"
    )


class Pictures(Source):
    """Picture files, in order."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __iter__(self) -> Iterator[Grab]:
        for path in self.paths:
            try:
                yield Grab(read_image(path), None, path.name)
            except ImageError as error:
                raise SourceError(str(error)) from None


class Video(Source):
    """Every frame of a video file."""

    def __init__(self, capture: Any, path: Path) -> None:
        cv2 = require("cv2", "cpu")
        self.path = path
        self._capture = capture
        self.frames_per_s = float(capture.get(cv2.CAP_PROP_FPS)) or None

    def __iter__(self) -> Iterator[Grab]:
        index = 0
        while True:
            done, frame = self._capture.read()
            if not done:
                break
            yield Grab(frame, index / (self.frames_per_s or 1.0), index)
            index += 1
        if index == 0:
            raise SourceError(f"video {self.path} has no frame that OpenCV can read")

    def close(self) -> None:
        """Release the file."""
        self._capture.release()


class Live(Source):
    """The newest frame of a camera or stream; a thread reads all of them."""

    live = True

    def __init__(self, capture: Any, name: str) -> None:
        self.name = name
        self._capture = capture
        self._newest: Grab | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name=f"read {name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Grab]:
        last: int | str = -1
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._fresh, last), SILENCE_S)
                grab = self._newest
                if grab is None or grab.frame_id == last:
                    raise SourceError(
                        f"{self.name} gives no more frames: is it unplugged, or used elsewhere?"
                    )
            last = grab.frame_id
            yield grab

    def close(self) -> None:
        """Stop reading and release the device."""
        with self._changed:
            self._ended = True
        self._thread.join(SILENCE_S)
        self._capture.release()

    def _fresh(self, last: int | str) -> bool:
        return self._ended or (self._newest is not None and self._newest.frame_id != last)

    def _read(self) -> None:
        index = 0
        while not self._ended:
            done, frame = self._capture.read()
            taken = time.monotonic()
            with self._changed:
                if done:
                    self._newest = Grab(frame, taken, index)
                else:
                    self._ended = True
                self._changed.notify_all()
            index += 1


def _capture(target: int | str, name: str) -> Any:
    # OpenCV and FFmpeg would explain themselves on stderr, in many lines; ours is one.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require("cv2", "cpu")
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        capture = cv2.VideoCapture(target)
    finally:
        cv2.utils.logging.setLogLevel(before)
    if not capture.isOpened():
        capture.release()
        why = (
            "is one plugged in, and may this user read /dev/video*?"
            if isinstance(target, int)
            else "it is not a video that this OpenCV can read"
        )
        raise SourceError(f"cannot open {name}: {why}")
    return capture
