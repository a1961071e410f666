"""`open_source`: reads what the user wrote, and opens the source that it names."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from edge_mm_runtime.errors import SourceError, UsageError
from edge_mm_runtime.sources.camera import Camera, Patience
from edge_mm_runtime.sources.capture import (
    Size,
    Target,
    camera_target,
    is_finite,
    open_capture,
    video_target,
)
from edge_mm_runtime.sources.connection import Capture
from edge_mm_runtime.sources.grab import Source
from edge_mm_runtime.sources.pictures import DEPTHS, PictureFrames, picture_paths
from edge_mm_runtime.sources.recorded import Frames, IterableFrames, Player, Recorded
from edge_mm_runtime.sources.video import VideoFrames, said_rate
from edge_mm_runtime.space import Intrinsics

START_S = 10.0  # to the first frame: exposure settles, a stream waits for its key frame
ENDLESS = Patience(stall_s=None, start_s=None, give_up_s=None)  # a file does not fail by waiting


def open_source(
    spec: str | int | os.PathLike[str] | Iterable[Any],
    *,
    real_time: bool = False,
    frames_per_s: float | None = None,
    size: Size | None = None,
    depth: str | os.PathLike[str] | None = None,
    intrinsics: Intrinsics | None = None,
    stall_s: float = 2.0,
    give_up_s: float | None = 60.0,
) -> Source:
    """Open a source of frames; a context manager, see `Source`.

    spec          camera: 0, "0", "/dev/video0", "csi://0" (Jetson), a GStreamer pipeline (it has
                  " ! "), an RTSP or HTTP URL
                  file: a video, a picture, a folder of pictures, "frames/*.jpg",
                  "frames/%04d.jpg"
                  iterable: of frames, of pairs (frame, depth), or of Grab
    real_time     a file plays at its own rate and is live; an iterable is read in a thread as
                  fast as it gives frames: what a camera's own Python interface needs
    frames_per_s  of a camera: asked of it. Of pictures and iterables, which have no rate: gives
                  them timestamps, and a rate to play at
    size          (width, height), of a camera
    depth         of pictures: as many depth files, in a folder or pattern (see `read_depth`)
    intrinsics    kept with the source, for `in_space`
    stall_s, give_up_s  of a live one: see `Patience`
    Raises SourceError for what cannot be opened, at once; UsageError for options that do not go
    together.
    """
    if frames_per_s is not None and not (frames_per_s > 0 and math.isfinite(frames_per_s)):
        raise UsageError(f"frames_per_s is {frames_per_s}: give a positive number")
    patience = Patience(stall_s=stall_s, start_s=max(stall_s, START_S), give_up_s=give_up_s)
    if not isinstance(spec, (str, int, os.PathLike)):
        _only_for("cameras", size=size)
        _only_for("pictures; give pairs (frame, depth)", depth=depth)
        return _from_iterable(spec, real_time, frames_per_s, intrinsics, patience)
    text = os.fspath(spec) if isinstance(spec, os.PathLike) else str(spec).strip()
    target = camera_target(text, size, frames_per_s)
    if target is not None:
        _only_for("pictures", depth=depth)
        return _from_camera(target, text, real_time, frames_per_s, size, intrinsics, patience)
    _only_for("cameras", size=size)
    paths = _pictures(text)
    if paths is None:
        _only_for("pictures", depth=depth)
        _only_for("cameras, pictures and iterables; a video has its own", frames_per_s=frames_per_s)
        return _from_video(Path(text).expanduser(), real_time, intrinsics)
    if real_time and frames_per_s is None:
        raise UsageError("pictures have no rate of their own: give frames_per_s to play them")
    depths = None if depth is None else picture_paths(os.fspath(depth), DEPTHS)
    if depth is not None and depths is None:
        raise SourceError(f"no depth files: {depth}: it needs {', '.join(DEPTHS)} files")
    frames = PictureFrames(paths, depths, frames_per_s)
    return _from_file(frames, f"pictures {text}", frames_per_s, real_time, intrinsics)


def _from_iterable(
    spec: Any,
    real_time: bool,
    frames_per_s: float | None,
    intrinsics: Intrinsics | None,
    patience: Patience,
) -> Source:
    if isinstance(spec, np.ndarray) and spec.ndim < 4:
        raise UsageError(f"this is one frame {spec.shape}, not several: give [frame]")
    if isinstance(spec, (bytes, bytearray)) or not hasattr(spec, "__iter__"):
        raise UsageError(
            f"a source is a camera, a file, or an iterable of frames, not {type(spec).__name__}"
        )
    name = f"the {type(spec).__name__} of frames"
    frames = IterableFrames(spec, frames_per_s)
    if not real_time:
        return Recorded(frames, name, frames_per_s, intrinsics)
    paced = frames_per_s is not None
    return _played(frames, name, frames_per_s, intrinsics, patience, paced=paced)


def _from_camera(
    target: Target,
    text: str,
    real_time: bool,
    frames_per_s: float | None,
    size: Size | None,
    intrinsics: Intrinsics | None,
    patience: Patience,
) -> Source:
    if not (target.sets or text.startswith("csi://")):
        why = "cameras by number, by /dev/... and csi://; this one says its own"
        _only_for(why, size=size, frames_per_s=frames_per_s)
    opened = [open_capture(target, size, frames_per_s)]
    if target.api == "CAP_FFMPEG" and not text.startswith("rtsp") and is_finite(opened[0]):
        video = VideoFrames(opened[0])
        return _from_file(video, target.name, video.frames_per_s, real_time, intrinsics)

    def open_again(_: threading.Event) -> Capture:
        capture: Capture = opened.pop() if opened else open_capture(target, size, frames_per_s)
        return capture

    rate = said_rate(opened[0]) or frames_per_s
    return Camera(
        open_again, target.name, frames_per_s=rate, intrinsics=intrinsics, patience=patience
    )


def _pictures(text: str) -> list[Path] | None:
    """See `picture_paths`; SourceError for an empty text, which would be the folder one is in."""
    if not text:
        raise _no_source(text)
    try:
        return picture_paths(text)
    except OSError as error:  # may not be read; a name that is too long
        raise SourceError(f"cannot read {text[:200]}: {error.strerror}") from None


def _no_source(text: str) -> SourceError:
    return SourceError(
        f"no such source: {text!r}: give a camera index (0), /dev/video0, csi://0, a video file, "
        "a folder of pictures, a pattern such as 'frames/*.jpg', a GStreamer pipeline, or a "
        "stream URL"
    )


def _from_video(path: Path, real_time: bool, intrinsics: Intrinsics | None) -> Source:
    if not path.is_file():
        raise _no_source(str(path))
    video = VideoFrames(open_capture(video_target(path)))
    return _from_file(video, f"video {path}", video.frames_per_s, real_time, intrinsics)


def _from_file(
    frames: Frames,
    name: str,
    frames_per_s: float | None,
    real_time: bool,
    intrinsics: Intrinsics | None,
) -> Source:
    if real_time:
        return _played(frames, name, frames_per_s, intrinsics, ENDLESS, paced=True)
    return Recorded(frames, name, frames_per_s, intrinsics)


def _played(
    frames: Frames,
    name: str,
    frames_per_s: float | None,
    intrinsics: Intrinsics | None,
    patience: Patience,
    *,
    paced: bool,
) -> Camera:
    return Camera(
        lambda stop: Player(frames, name, stop, paced=paced),
        name,
        frames_per_s=frames_per_s,
        intrinsics=intrinsics,
        patience=patience,
        reopens=False,
    )


def _only_for(what: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{name} is for {what}")
