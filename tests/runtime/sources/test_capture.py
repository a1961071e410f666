"""What cv2.VideoCapture is asked to open, and how; a stand-in notes it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mm_runtime.errors import SourceError, UsageError
from edge_mm_runtime.sources import jetson_csi, open_source


def test_a_jetson_camera_is_a_pipeline() -> None:
    pipeline = jetson_csi(1, 1920, 1080, 60, flip=2)
    elements = [element.strip() for element in pipeline.split("!")]
    assert elements == [
        "nvarguscamerasrc sensor-id=1",
        "video/x-raw(memory:NVMM), width=1920, height=1080, format=NV12, framerate=60/1",
        "nvvidconv flip-method=2",
        "video/x-raw, format=BGRx",
        "videoconvert",
        "video/x-raw, format=BGR",
        "appsink drop=true max-buffers=1 sync=false",
    ]
    for bad in ({"sensor_id": -1}, {"width": 0}, {"fps": 0}, {"flip": 8}):
        with pytest.raises(UsageError, match="no such CSI camera"):
            jetson_csi(**bad)


@pytest.mark.parametrize("spec", ["csi://0", "videotestsrc ! videoconvert ! appsink"])
def test_an_opencv_without_gstreamer_says_so(spec: str) -> None:
    assert "GStreamer:                   NO" in cv2.getBuildInformation()  # as all of PyPI's
    with pytest.raises(SourceError, match="is built without GStreamer, as all of PyPI's are"):
        open_source(spec)
    with pytest.raises(UsageError, match="does not end in an appsink"):
        open_source("videotestsrc ! fakesink")


class Recorder:
    """Stands for cv2.VideoCapture; notes how it was made."""

    made: list[tuple[Any, ...]]
    opens = True

    def __init__(self, *arguments: Any) -> None:
        Recorder.made.append(arguments)
        self.properties: dict[int, float] = {cv2.CAP_PROP_FPS: 30.0}

    def isOpened(self) -> bool:
        return Recorder.opens

    def set(self, key: int, value: float) -> bool:
        self.properties[key] = min(value, 640)
        return True

    def get(self, key: int) -> float:
        return self.properties.get(key, 0.0)

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.002)
        return True, np.zeros((4, 6, 3), np.uint8)

    def release(self) -> None:
        pass


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.made, Recorder.opens = [], True
    monkeypatch.setattr(cv2, "VideoCapture", Recorder)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GStreamer:     YES (1.20.3)\n")
    return Recorder


def test_each_kind_goes_to_its_back_end(recorder: type[Recorder]) -> None:
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 10_000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 10_000]
    plain = "videotestsrc ! videoconvert ! appsink"
    cases: dict[Any, tuple[Any, ...]] = {
        2: (2, cv2.CAP_ANY),
        "/dev/null": ("/dev/null", cv2.CAP_V4L2),
        plain: (plain, cv2.CAP_GSTREAMER),
        "csi://1": (jetson_csi(1), cv2.CAP_GSTREAMER),
        "rtsp://camera/1": ("rtsp://camera/1", cv2.CAP_FFMPEG, timeouts),
    }
    for spec in cases:
        with open_source(spec) as source:
            assert source.live
            assert source.read(5.0).frame.shape == (4, 6, 3)
            assert source.frames_per_s == 30.0
    assert recorder.made == list(cases.values())  # each was opened once
    with open_source("csi://0", size=(640, 480), frames_per_s=15) as source:
        assert recorder.made[-1][0] == jetson_csi(0, 640, 480, 15)
    recorder.opens = False
    with pytest.raises(
        SourceError, match=r"gst-launch-1\.0 videotestsrc ! videoconvert ! fakesink"
    ):
        open_source(plain)


def test_a_size_that_the_camera_lacks_is_told(
    recorder: type[Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    with open_source("0", size=(1280, 480), frames_per_s=15) as source:
        assert source.frames_per_s == 15.0
    assert caplog.messages == ["camera 0: has no 1280 x 480, it gives 640 x 480"]


def test_a_film_behind_a_url_is_a_file(
    recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_mm_runtime.sources.open.is_finite", lambda _: True)
    with open_source("http://host/film.mp4") as source:
        assert not source.live
    with open_source("rtsp://host/film.mp4") as source:
        assert source.live


@pytest.mark.parametrize("spec", ["97", "garbage.mp4"])
def test_opencv_and_ffmpeg_keep_quiet(tmp_path: Path, spec: str) -> None:
    (tmp_path / "garbage.mp4").write_bytes(b"123" * 100)
    code = f"""
from edge_mm_runtime.errors import SourceError
from edge_mm_runtime.sources import open_source
try:
    open_source({spec!r})
except SourceError:
    pass
"""  # a process of its own: FFmpeg reads its log level once
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
