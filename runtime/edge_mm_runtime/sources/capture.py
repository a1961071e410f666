"""Opening of what cv2.VideoCapture reads: which back end, with what, and why it cannot be."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edge_mm_runtime.errors import SourceError, UsageError
from edge_mm_runtime.extras import require
from edge_mm_runtime.sources.jetson import jetson_csi

log = logging.getLogger(__name__)

URL_TIMEOUT_MS = 10_000  # to open a stream, and to wait for its next packet (FFmpeg's own: 30 s)
PIPE = " ! "  # of a GStreamer pipeline; no path or URL has it
CSI = re.compile(r"csi://(\d+)")

Size = tuple[int, int]


class Target(NamedTuple):
    """Something that cv2.VideoCapture can open.

    api   name of the back end in cv2; CAP_ANY: OpenCV tries all it has
    why   what to look at when it cannot be opened
    sets  width, height and rate can be asked of the driver
    """

    target: int | str
    name: str
    api: str
    why: str
    sets: bool = False


def camera_target(text: str, size: Size | None, frames_per_s: float | None) -> Target | None:
    """Read "0", "/dev/video0", a GStreamer pipeline, "csi://0" or a URL; None: none of these.

    size, frames_per_s  of the camera; they are part of a csi:// pipeline
    """
    if PIPE in text:
        return _pipeline(text, "the GStreamer pipeline")
    if csi := CSI.fullmatch(text):
        wide, high = size or (1280, 720)
        pipeline = jetson_csi(int(csi[1]), wide, high, round(frames_per_s or 30))
        return _pipeline(pipeline, f"CSI camera {csi[1]}")
    if text.isdigit():
        why = "is one plugged in, and may this user read /dev/video*?"
        return Target(int(text), f"camera {text}", "CAP_ANY", why, sets=True)
    if text.startswith("/dev/"):
        if not Path(text).exists():
            raise SourceError(f"no such device: {text}: is the camera plugged in?")
        why = "is it a camera that nobody else uses, and may this user read it (group video)?"
        return Target(text, f"camera {text}", "CAP_V4L2", why, sets=True)
    if "://" in text:
        why = "does its address answer, and is it a video that this OpenCV can read?"
        return Target(text, without_password(text), "CAP_FFMPEG", why)
    return None


def without_password(text: str) -> str:
    """A URL, or a pipeline with URLs in it, as it may stand in a log."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def video_target(path: Path) -> Target:
    """A video file."""
    return Target(
        str(path), f"video {path}", "CAP_ANY", "it is not a video that this OpenCV can read"
    )


def open_capture(
    target: Target, size: Size | None = None, frames_per_s: float | None = None
) -> Any:
    """Open it: a cv2.VideoCapture, to be released. SourceError says why it cannot be.

    size, frames_per_s  asked of the driver, which takes the nearest that it has: logged where
                        that is another size
    """
    # OpenCV and FFmpeg would explain themselves on stderr, in many lines; ours is one.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2 = require("cv2", "cpu")
    if target.api == "CAP_GSTREAMER":
        _need_gstreamer(cv2, target)
    with _quiet(cv2):
        capture = _open(cv2, target)
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"cannot open {target.name}: {target.why}")
    if target.sets:
        _ask_for(cv2, capture, target.name, size, frames_per_s)
    return capture


def is_finite(capture: Any) -> bool:
    """Whether a URL turned out to be a file: it has a number of frames."""
    return bool(capture.get(require("cv2", "cpu").CAP_PROP_FRAME_COUNT) > 0)


def _pipeline(text: str, name: str) -> Target:
    if "appsink" not in text:
        raise UsageError(
            f"the GStreamer pipeline does not end in an appsink, where frames come out: add "
            f"'{PIPE}appsink drop=true max-buffers=1' to {without_password(text)!r}"
        )
    plain = without_password(text).replace("appsink", "fakesink", 1)
    why = f"does it play? gst-launch-1.0 {plain}"
    return Target(text, name, "CAP_GSTREAMER", why)


def has_gstreamer(cv2: Any) -> bool:
    """Whether this OpenCV was built with it; CSI cameras need it."""
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def _need_gstreamer(cv2: Any, target: Target) -> None:
    if not has_gstreamer(cv2):
        raise SourceError(
            f"cannot open {target.name}: this OpenCV ({cv2.__version__}) is built without "
            "GStreamer, as all of PyPI's are: use JetPack's own, the package python3-opencv of "
            "Debian or Ubuntu, or a camera index"
        )


def _open(cv2: Any, target: Target) -> Any:
    api = getattr(cv2, target.api)
    if target.api != "CAP_FFMPEG":
        return cv2.VideoCapture(target.target, api)
    if api not in cv2.videoio_registry.getStreamBackends():
        return cv2.VideoCapture(target.target)
    timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    parameters = [value for key in timeouts for value in (key, URL_TIMEOUT_MS)]
    return cv2.VideoCapture(target.target, api, parameters)


def _ask_for(
    cv2: Any, capture: Any, name: str, size: Size | None, frames_per_s: float | None
) -> None:
    if frames_per_s is not None:
        capture.set(cv2.CAP_PROP_FPS, frames_per_s)
    if size is None:
        return
    capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
    capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    got = (
        int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
    )
    if got != tuple(size):
        log.warning("%s: has no %d x %d, it gives %d x %d", name, *size, *got)


_quiet_lock = threading.Lock()
_quiet_depth = 0
_loud = 0


@contextmanager
def _quiet(cv2: Any) -> Iterator[None]:
    """Keep OpenCV silent. Its level is one for all threads: the last one out restores it."""
    global _quiet_depth, _loud
    with _quiet_lock:
        if _quiet_depth == 0:
            _loud = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                cv2.utils.logging.setLogLevel(_loud)
