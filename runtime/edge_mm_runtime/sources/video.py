"""The frames of a video file, with their times."""

from __future__ import annotations

from typing import Any

from edge_mm_runtime.errors import ImageError
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame
from edge_mm_runtime.sources.connection import FAILED_READS
from edge_mm_runtime.sources.grab import Grab, as_grab

ASSUMED_FPS = 25.0  # of a file that tells neither its rate nor its times
CUT = 0.9  # of the frames that a file says it has; some say it roughly
MOST_FPS = 1000.0  # a higher one is the clock of a stream, not its rate


class VideoFrames:
    """Every frame of an opened cv2.VideoCapture, in order; the capture is released with it.

    timestamp_s is the position that the file says, from its first frame on: a phone's video has
    no constant rate. A file without times gets frame number / rate. Frames that cannot be decoded
    are an ImageError before the next one; where it ends long before it should, one before the end.
    """

    def __init__(self, capture: Any) -> None:
        cv2 = require("cv2", "cpu")
        self.frames_per_s = said_rate(capture)
        self._capture = capture
        self._said = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # 0 or less: it does not say
        self._position = cv2.CAP_PROP_POS_MSEC
        self._index = -1
        self._kept: Frame | None = None  # decoded, and not given yet
        self._first_s = 0.0
        self._time_s = 0.0

    def __next__(self) -> Grab:
        frame = self._decoded()
        self._index += 1
        said_s = float(self._capture.get(self._position)) / 1000.0
        if self._index == 0:
            self._first_s = said_s
        else:
            step_s = 1.0 / (self.frames_per_s or ASSUMED_FPS)
            later = said_s - self._first_s > self._time_s
            self._time_s = said_s - self._first_s if later else self._time_s + step_s
        return as_grab(frame, self._index, self._time_s)

    def close(self) -> None:
        """Release the file."""
        self._capture.release()

    def _decoded(self) -> Frame:
        """The next frame; an ImageError before it where others cannot be decoded."""
        failed = 0
        while self._kept is None and failed < FAILED_READS:
            done, self._kept = self._capture.read()
            if done and failed:
                raise ImageError(f"OpenCV cannot decode what follows {self._index + 1} frames")
            failed += not done
        frame, self._kept = self._kept, None
        if frame is not None:
            return frame
        raise self._end()

    def _end(self) -> ImageError | StopIteration:
        said, got = self._said, self._index + 1
        self._said = 0  # told once
        if 0 < got < CUT * said:
            return ImageError(f"it ends after {got} of {said} frames: was it cut short?")
        return StopIteration()


def said_rate(capture: Any) -> float | None:
    """Frames a second that a capture says; None: it does not know."""
    cv2 = require("cv2", "cpu")
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0.0 < rate <= MOST_FPS else None
