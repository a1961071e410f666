"""Sources: order, times, names, what is skipped, and what cannot be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mm_runtime.errors import SourceEnded, SourceError, UsageError
from edge_mm_runtime.image import read_image, write_image
from edge_mm_runtime.sources import open_source
from edge_mm_runtime.space import Intrinsics


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    out = tmp_path / "pictures"
    out.mkdir()
    for index in range(3):
        write_image(out / f"p{index}.png", np.full((4, 6, 3), index * 10, np.uint8))
    (out / "notes.txt").write_text("not a picture")
    return out


@pytest.fixture(params=["v.avi", "v.mp4"])
def video(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (32, 24))
    for index in range(5):
        writer.write(np.full((24, 32, 3), index * 50, np.uint8))
    writer.release()
    return path


def values(grabs: Any) -> list[int]:
    return [int(grab.frame[0, 0, 0]) for grab in grabs]


def test_a_folder_gives_its_pictures_in_order(pictures: Path) -> None:
    with open_source(str(pictures)) as source:
        grabs = list(source)
        assert not source.live
    assert [grab.frame_id for grab in grabs] == ["p0.png", "p1.png", "p2.png"]
    assert values(grabs) == [0, 10, 20]
    assert grabs[0].timestamp_s is None


def test_patterns_and_a_single_picture(pictures: Path) -> None:
    assert values(open_source(f"{pictures}/p[12].png")) == [10, 20]
    assert values(open_source(pictures / "p1.png")) == [10]
    assert values(open_source(f"{pictures}/p%d.png")) == [0, 10, 20]
    with pytest.raises(SourceError, match=r"no picture matches .*p%04d.png"):
        open_source(f"{pictures}/p%04d.png")


def test_a_numbered_sequence_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (7, 9, 10, 12345):  # it begins anywhere, has a gap, and outgrows its digits
        write_image(tmp_path / f"f{number:04d}.png", np.full((4, 6, 3), number % 251, np.uint8))
    write_image(tmp_path / "f11.png", np.zeros((4, 6, 3), np.uint8))  # not of this pattern
    with open_source(f"{tmp_path}/f%04d.png", frames_per_s=4) as source:
        grabs = list(source)
        assert source.frames_per_s == 4
    assert [grab.frame_id for grab in grabs] == [
        "f0007.png",
        "f0009.png",
        "f0010.png",
        "f12345.png",
    ]
    assert [grab.timestamp_s for grab in grabs] == [0, 0.25, 0.5, 0.75]
    assert [grab.frame_id for grab in open_source(f"{tmp_path}/f%d.png")] == [
        "f11.png",
        "f12345.png",
    ]


def test_pictures_with_depth(pictures: Path, tmp_path: Path) -> None:
    depths = tmp_path / "depth"
    depths.mkdir()
    for index in range(3):
        cv2.imwrite(str(depths / f"d{index}.png"), np.full((2, 3), 900 + index, np.uint16))
    camera = Intrinsics(5.0, 5.0, 3.0, 2.0, 6, 4)
    with open_source(pictures, depth=depths, intrinsics=camera) as source:
        assert source.intrinsics is camera
        got = [grab.depth for grab in source]
    assert [(depth.dtype, int(depth[0, 0])) for depth in got if depth is not None] == [
        (np.uint16, 900 + index) for index in range(3)
    ]
    np.save(depths / "d3.npy", np.ones((4, 6), np.float32))
    with pytest.raises(SourceError, match="3 pictures and 4 depth files"):
        open_source(pictures, depth=depths)
    one = open_source(pictures / "p0.png", depth=depths / "d3.npy").read().depth
    assert one is not None
    assert one.dtype == np.float32
    with pytest.raises(SourceError, match="depth is an array H x W of one channel"):
        open_source(pictures / "p0.png", depth=pictures / "p1.png").read()
    with pytest.raises(SourceError, match=r"no depth files: .*notes.txt"):
        open_source(pictures, depth=pictures / "notes.txt")


def test_a_video_gives_every_frame_with_its_time(video: Path) -> None:
    with open_source(str(video)) as source:
        grabs = list(source)
        assert (source.live, source.frames_per_s) == (False, 10.0)
        stats = source.stats()
        with pytest.raises(SourceEnded, match="has ended"):
            source.read()
        with pytest.raises(UsageError, match="is not live, it has no newest frame"):
            source.read_latest(1.0)
    assert [grab.frame_id for grab in grabs] == list(range(5))
    np.testing.assert_allclose([grab.timestamp_s for grab in grabs], [0, 0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose([grab.frame.mean() for grab in grabs], range(0, 250, 50), atol=4)
    assert (stats.captured, stats.given, stats.dropped, stats.reconnects) == (5, 5, 0, 0)
    with pytest.raises(SourceEnded, match="is closed"):
        source.read()


def test_a_corrupt_picture_is_skipped_unless_it_is_the_only_one(
    pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (pictures / "p1.png").read_bytes()
    jpeg = cv2.imencode(".jpg", read_image(pictures / "p2.png"))[1].tobytes()
    (pictures / "p1.png").write_bytes(whole[:40])
    (pictures / "p3.jpg").write_bytes(b"\xff\xd8" + jpeg[60:200])
    with open_source(pictures) as source:
        assert [grab.frame_id for grab in source] == ["p0.png", "p2.png"]
        assert source.stats().faults == {"corrupt": 2}
        assert source.stats().captured == 2
    assert len(caplog.messages) == 1
    assert "p1.png is not a picture that OpenCV can read" in caplog.messages[0]
    for spec in ("p1.png", "p3.jpg", "*.jpg"):
        with pytest.raises(SourceError, match="is not a picture") as told:
            list(open_source(f"{pictures}/{spec}"))
        assert not isinstance(told.value, SourceEnded)


def forty_frames(folder: Path) -> Path:
    """A video of noise, each frame a JPEG."""
    path = folder / "v.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 200, (32, 24))
    for frame in np.random.default_rng(0).integers(0, 255, (40, 24, 32, 3), dtype=np.uint8):
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize("real_time", [False, True])
def test_a_video_that_is_cut_short_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, real_time: bool
) -> None:
    path = forty_frames(tmp_path)
    with open_source(path, real_time=real_time) as source:
        assert sum(1 for _ in source) > 0
        assert source.stats().faults == {}
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(path, real_time=real_time) as source:
        assert sum(1 for _ in source) > 0
        stats = source.stats()
    assert stats.faults == {"corrupt": 1}
    assert f"it ends after {stats.captured} of 40 frames: was it cut short?" in caplog.text
    assert 10 < stats.captured < 25


def test_what_cannot_be_opened_is_told(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"123" * 100)
    (tmp_path / "empty").mkdir()
    cases: dict[Any, str] = {
        97: "cannot open camera 97: is one plugged in",
        "97": "cannot open camera 97: is one plugged in",
        "/dev/video97": "no such device: /dev/video97: is the camera plugged in",
        "/dev/null": "cannot open camera /dev/null: .*may this user read it",
        "http://127.0.0.1:9/": "cannot open http://127.0.0.1:9/: does its address answer",
        str(garbage): "garbage.mp4: it is not a video that this OpenCV can read",
        str(tmp_path / "empty"): "no pictures in .*empty",
        str(tmp_path / "x*.jpg"): "no picture matches",
        str(tmp_path / "no" / "%04d.jpg"): "no picture matches",
        str(tmp_path / "missing.mp4"): "no such source: .*: give a camera index",
        "": "no such source: '': give a camera index",  # not the folder one is in
        " ": "no such source: '': give a camera index",
        "a" * 300: "cannot read a{200}: File name too long",
    }
    for spec, message in cases.items():
        with pytest.raises(SourceError, match=message):
            open_source(spec)


def test_options_that_do_not_go_together(pictures: Path, video: Path) -> None:
    frame = np.zeros((4, 6, 3), np.uint8)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (pictures, {"real_time": True}, "pictures have no rate of their own: give frames_per_s"),
        (video, {"frames_per_s": 5}, "frames_per_s is for cameras, pictures and iterables"),
        (video, {"depth": "d"}, "depth is for pictures"),
        (video, {"size": (64, 48)}, "size is for cameras"),
        (0, {"depth": "d"}, "depth is for pictures"),
        ("rtsp://camera/1", {"size": (64, 48)}, "size is for cameras by number"),
        ([frame], {"depth": "d"}, "give pairs"),
        (pictures, {"frames_per_s": 0}, "frames_per_s is 0: give a positive number"),
        (pictures, {"frames_per_s": float("inf")}, "frames_per_s is inf: give a positive number"),
        (frame, {}, r"one frame \(4, 6, 3\), not several: give \[frame\]"),
        (b"abc", {}, "an iterable of frames, not bytes"),
        (2.5, {}, "an iterable of frames, not float"),
    ]
    for spec, options, message in cases:
        with pytest.raises(UsageError, match=message):
            open_source(spec, **options)


def test_files_are_released(pictures: Path, video: Path) -> None:
    def handles() -> list[str]:
        links = []
        for link in Path("/proc/self/fd").iterdir():
            if link.exists():
                links.append(str(link.readlink()))
        return [link for link in links if str(video.parent) in link]

    with open_source(video) as source:
        source.read()
        assert handles()
    assert not handles()
    with open_source(pictures) as source:
        source.read()
        assert not handles()


@pytest.mark.parametrize("bad", [(5,), (5, 20), (38,)])
def test_frames_of_a_video_that_cannot_be_decoded_are_skipped(
    tmp_path: Path, bad: tuple[int, ...]
) -> None:
    path = forty_frames(tmp_path)
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(0)
    start = data.find(b"movi")
    for number in range(40):
        start = data.find(b"\xff\xd8\xff", start + 1)  # a JPEG begins
        if number in bad:
            data[start : start + 600] = noise.integers(0, 200, 600, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    with open_source(path) as source:
        assert sum(1 for _ in source) == 40 - len(bad)
        assert source.stats().faults == {"corrupt": len(bad)}


@pytest.mark.parametrize(
    "spec",
    [
        "http://admin:secret@127.0.0.1:9/x",
        "rtspsrc location=rtsp://admin:secret@cam/1 ! decodebin ! appsink",
        "rtspsrc location=rtsp://admin:secret@cam/1 ! fakesink",
    ],
)
def test_a_password_is_not_told(spec: str) -> None:
    with pytest.raises((SourceError, UsageError)) as told:
        open_source(spec)
    assert "secret" not in str(told.value)
