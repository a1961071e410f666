"""Sources: order, times, names, and what cannot be opened."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mm_runtime import sources
from edge_mm_runtime.errors import SourceError
from edge_mm_runtime.image import write_image
from edge_mm_runtime.sources import Live, open_source


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for index in range(3):
        write_image(tmp_path / f"p{index}.png", np.full((4, 6, 3), index * 10, np.uint8))
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for index in range(5):
        writer.write(np.full((24, 32, 3), index * 50, np.uint8))
    writer.release()
    return path


def test_a_folder_gives_its_pictures_in_order(pictures: Path) -> None:
    with open_source(str(pictures)) as source:
        grabs = list(source)
    assert [grab.frame_id for grab in grabs] == ["p0.png", "p1.png", "p2.png"]
    assert [int(grab.frame[0, 0, 0]) for grab in grabs] == [0, 10, 20]
    assert grabs[0].timestamp_s is None


def test_a_pattern_and_a_single_picture(pictures: Path) -> None:
    assert len(list(open_source(f"{pictures}/p[12].png"))) == 2
    assert len(list(open_source(f"{pictures}/p1.png"))) == 1


def test_a_video_gives_every_frame_with_its_time(video: Path) -> None:
    with open_source(str(video)) as source:
        grabs = list(source)
        assert (source.live, source.frames_per_s) == (False, 10.0)
    assert [grab.frame_id for grab in grabs] == list(range(5))
    np.testing.assert_allclose([grab.timestamp_s for grab in grabs], [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose([grab.frame.mean() for grab in grabs], range(0, 250, 50), atol=3)


class FakeCamera:
    """Delivers `count` frames, one every 5 ms, then fails."""

    def __init__(self, count: int) -> None:
        self.count, self.given, self.released = count, 0, False

    def read(self) -> tuple[bool, np.ndarray | None]:
        if self.given == self.count:
            return False, None
        time.sleep(0.005)
        self.given += 1
        return True, np.full((2, 2, 3), self.given, np.uint8)

    def release(self) -> None:
        self.released = True


def test_a_live_source_gives_the_newest_frame() -> None:
    camera = FakeCamera(10_000)
    with Live(camera, "camera 0") as source:
        stream = iter(source)
        first = next(stream)
        while camera.given < 20:  # the reader of the answers is slow
            time.sleep(0.005)
        second = next(stream)
        assert int(second.frame_id) - int(first.frame_id) >= 15
        assert second.timestamp_s is not None
        assert second.timestamp_s <= time.monotonic()
    assert camera.released


def test_a_camera_that_stops_is_told() -> None:
    with (
        Live(FakeCamera(2), "camera 0") as source,
        pytest.raises(SourceError, match="camera 0 gives no more frames: is it unplugged"),
    ):
        for _ in source:
            time.sleep(0.02)


def test_a_camera_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(FakeCamera):
        def read(self) -> tuple[bool, np.ndarray | None]:
            time.sleep(0.1)
            return super().read()

    monkeypatch.setattr(sources, "SILENCE_S", 0.02)
    with Live(Hanging(1), "camera 0") as source, pytest.raises(SourceError, match="no more frames"):
        next(iter(source))


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"123" * 100)
    (tmp_path / "empty").mkdir()
    cases = {
        "97": "cannot open camera 97: is one plugged in",
        str(garbage): "garbage.mp4: it is not a video that this OpenCV can read",
        str(tmp_path / "empty"): "no pictures in .*empty",
        str(tmp_path / "x*.jpg"): "no picture matches",
        str(tmp_path / "missing.mp4"): "no such source: .*: give a camera index",
    }
    for spec, message in cases.items():
        with pytest.raises(SourceError, match=message):
            open_source(spec)


@pytest.mark.parametrize("spec", ["97", "garbage.mp4"])
def test_opencv_and_ffmpeg_keep_quiet(tmp_path: Path, spec: str) -> None:
    (tmp_path / "garbage.mp4").write_bytes(b"123" * 100)
    code = f"""
from edge_mm_runtime.sources import SourceError, open_source
try:
    open_source({spec!r})
except SourceError:
    pass
"""  # a process of its own: FFmpeg reads its log level once
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_broken_picture_in_a_folder_is_named(pictures: Path) -> None:
    (pictures / "p1.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"p1.png is not a picture"):
        list(open_source(str(pictures)))
