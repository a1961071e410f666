"""Where annotated frames go: a video file, a window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_mm_runtime.errors import MissingExtraError, UsageError
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame

ESCAPE = 27
CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".mkv": "mp4v", ".mov": "mp4v"}


class Film:
    """A video file of pictures; all take the size of the first one.

    It plays as fast as what was filmed: a picture stays until the time of the next one, and a later
    one of the same time takes its place. It is written under another name and takes its own when
    it is whole; without a picture there is no file. UsageError for a name that no video can be
    written to, and at the end for a video that does not play.
    """

    def __init__(self, path: Path, frames_per_s: float) -> None:
        if path.suffix.lower() not in CODECS or not path.parent.is_dir() or path.is_dir():
            raise _unwritable(path)
        self.path = path
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._frames_per_s = frames_per_s
        self._writer: Any = None
        self._size = (0, 0)
        self._last: Frame | None = None  # its time is not over yet
        self._started_s = 0.0
        self._written = 0

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last is not None:
            self._append(self._last)
            self._writer.release()
            if not self._is_whole():
                self._partial.unlink(missing_ok=True)
                raise UsageError(f"{self.path} could not be written to its end: is the disk full?")
            self._partial.replace(self.path)

    def write(self, picture: Frame, time_s: float | None) -> None:
        """Append a BGR picture of a time, on any clock; without one it follows the last.

        UsageError when the file cannot be written.
        """
        cv2 = require("cv2", "cpu")
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            codec = cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
            writer = cv2.VideoWriter(str(self._partial), codec, self._frames_per_s, self._size)
            if not writer.isOpened():
                raise _unwritable(self.path)
            self._writer = writer
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size)
        if self._last is not None:
            due = self._written + 1
            if time_s is not None:
                due = round((time_s - self._started_s) * self._frames_per_s)
            while self._written < due:
                self._append(self._last)
        elif time_s is not None:
            self._started_s = time_s
        self._last = picture

    def _is_whole(self) -> bool:
        """Whether the last picture can be read again; a failed write is not told."""
        cv2 = require("cv2", "cpu")
        film = cv2.VideoCapture(str(self._partial))
        film.set(cv2.CAP_PROP_POS_FRAMES, self._written - 1)
        read = bool(film.read()[0])
        at_the_end = film.get(cv2.CAP_PROP_POS_FRAMES) >= self._written
        tells = read and film.getBackendName() == "FFMPEG"  # others know places roughly, if at all
        film.release()
        return at_the_end if tells else read

    def _append(self, picture: Frame) -> None:
        self._writer.write(picture)
        self._written += 1


def _unwritable(path: Path) -> UsageError:
    return UsageError(
        f"cannot write {path}: use a name that ends in .mp4 or .avi, in a folder that exists and "
        "may be written"
    )


class Window:
    """A window on the desktop; MissingExtraError where this OpenCV cannot open one."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._cv2: Any = require("cv2", "cpu")
        try:
            self._cv2.namedWindow(title, self._cv2.WINDOW_NORMAL)
        except self._cv2.error:
            raise MissingExtraError(
                "cv2", "display", "cannot open a window (a headless build, or no desktop)"
            ) from None

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: object) -> None:
        self._cv2.destroyWindow(self._title)

    def show(self, picture: Frame) -> bool:
        """Show a BGR picture; False once the user closed the window, or pressed q or Esc."""
        self._cv2.imshow(self._title, picture)
        key = self._cv2.waitKey(1) & 0xFF
        visible = self._cv2.getWindowProperty(self._title, self._cv2.WND_PROP_VISIBLE) >= 1
        return visible and key not in (ord("q"), ESCAPE)
