"""A live source whose camera does what cameras do: every fault is scripted.

`Fake` stands for cv2.VideoCapture: it gives what the test puts into it, and waits otherwise.
"""

from __future__ import annotations

import gc
import http.server
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mm_runtime.errors import SourceEnded, SourceError, UsageError
from edge_mm_runtime.sources import connection, open_source
from edge_mm_runtime.sources.camera import MOST_HUNG, Camera, Patience, backoff
from edge_mm_runtime.sources.faults import Health
from edge_mm_runtime.sources.grab import Grab, Source, Tally

LONG_S = 5.0  # a test that waits so long has failed
# Quick where the test waits for it, and long where a busy machine could be taken for a stall.
QUICK = Patience(stall_s=LONG_S, retry_s=0.01, retry_most_s=0.04)
STALLS = Patience(stall_s=0.1, start_s=0.3, retry_s=0.01, retry_most_s=0.04)


def picture(value: int, height: int = 4) -> np.ndarray:
    return np.full((height, 6, 3), value, np.uint8)


class Fake:
    """A capture; an exception that is put in is raised."""

    def __init__(self, *items: Any, stop: threading.Event | None = None) -> None:
        self.items: queue.Queue[Any] = queue.Queue()
        self.stop = stop  # None: a driver that hangs and cannot be told to stop
        self.reading = False
        self.released = False
        self.give(*items)

    def give(self, *items: Any) -> None:
        for item in items:
            self.items.put(item)

    def read(self) -> tuple[bool, Any]:
        assert not self.released
        self.reading = True
        try:
            while True:
                try:
                    item = self.items.get(timeout=0.002)
                    break
                except queue.Empty:
                    if self.stop is not None and self.stop.is_set():
                        return False, None
        finally:
            self.reading = False
        if isinstance(item, Exception):
            raise item
        return item is not FAILED, None if item is FAILED else item

    def release(self) -> None:
        assert not self.reading, "released under a read"
        self.released = True


FAILED = object()  # a read that fails
UNPLUGGED = (FAILED,) * connection.FAILED_READS


class Bench:
    """Opens a scripted capture each time; an exception is raised instead."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.opened: list[Fake] = []

    def open(self, stop: threading.Event) -> Fake:
        item = self.script.pop(0) if self.script else SourceError("cannot open camera 0: gone")
        if isinstance(item, Exception):
            raise item
        fake: Fake = item if isinstance(item, Fake) else Fake(*item, stop=stop)
        self.opened.append(fake)
        return fake

    def camera(self, *script: Any, patience: Patience = QUICK, **options: Any) -> Camera:
        self.script = list(script)
        return Camera(self.open, "camera 0", patience=patience, **options)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """No test leaves a thread or a file handle behind."""
    threads, handles = set(threading.enumerate()), handles_open()
    yield
    until(lambda: not set(threading.enumerate()) - threads, "a thread is left")
    gc.collect()
    assert handles_open() == handles


def handles_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def until(true: Callable[[], bool], what: str = "it did not happen") -> None:
    deadline = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def wait_for(source: Source, captured: int) -> None:
    until(lambda: source.stats().captured == captured)


def take(camera: Camera, count: int) -> list[int]:
    """Values of the next frames."""
    return [int(grab.frame[0, 0, 0]) for grab in itertools.islice(camera, count)]


def test_it_gives_the_newest_and_counts_the_rest(bench: Bench) -> None:
    with bench.camera([]) as camera:
        before = time.monotonic()
        for burst in (1, 7, 2, 1):
            start = camera.stats().captured
            bench.opened[0].give(*map(picture, range(start, start + burst)))
            wait_for(camera, start + burst)
            stats = camera.stats()
            assert stats.captured == stats.given + stats.dropped + 1  # one is waiting
            grab = camera.read(LONG_S)
            assert grab.frame_id == grab.frame[0, 0, 0] == start + burst - 1
            assert grab.timestamp_s is not None
            assert before <= grab.timestamp_s <= time.monotonic()
            before = grab.timestamp_s
            stats = camera.stats()
            assert stats.captured == stats.given + stats.dropped
        assert (stats.captured, stats.given, stats.dropped) == (11, 4, 7)
        assert not stats.faults
        bench.opened[0].give(picture(0))
        wait_for(camera, 12)
    stats = camera.stats()
    assert (stats.given, stats.dropped) == (4, 8)  # nobody will ask for what was waiting
    assert bench.opened[0].released


def test_rate_is_measured_over_the_last_seconds() -> None:
    tally, now = Tally(), time.monotonic()
    assert tally.snapshot(Health("camera 0")).fps is None
    for when in (now - 20, now - 19.9, *(now - 2 + index / 25 for index in range(50))):
        tally.capture(when)
    stats = tally.snapshot(Health("camera 0"))
    assert stats.fps == pytest.approx(25.0)
    assert stats.captured == 52


def test_a_read_that_waits_too_long(bench: Bench) -> None:
    patience = Patience(stall_s=60, start_s=60)
    with bench.camera([], patience=patience) as camera:
        with pytest.raises(SourceError, match=r"camera 0 gave no frame within 0.01 s$"):
            camera.read(0.01)
        bench.opened[0].give(picture(3))
        assert camera.read(LONG_S).frame_id == 0


def test_read_latest(bench: Bench) -> None:
    with bench.camera([], patience=Patience(stall_s=60, start_s=60)) as camera:
        with pytest.raises(SourceError, match="camera 0 has given no frame yet"):
            camera.read_latest(1.0)
        bench.opened[0].give(picture(1), picture(2))
        wait_for(camera, 2)
        assert camera.read_latest(LONG_S).frame_id == camera.read_latest(LONG_S).frame_id == 1
        assert (camera.stats().given, camera.stats().dropped) == (1, 1)
        bench.opened[0].give(Grab(picture(3), time.monotonic() - 3.0, 9))
        wait_for(camera, 3)
        with pytest.raises(SourceError, match=r"is 3.0\d s old, at most 0.5 s are wanted"):
            camera.read_latest(0.5)
        assert camera.read_latest(4.0).frame_id == 9
    with pytest.raises(SourceEnded):
        camera.read_latest(4.0)


def test_unplugged_and_plugged_in_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    gone = SourceError("cannot open camera 0")
    with bench.camera([picture(1), *UNPLUGGED], gone, gone, gone, [picture(2)]) as camera:
        assert take(camera, 2) == [1, 2]  # the program goes on
        stats = camera.stats()
    assert (stats.reconnects, stats.faults) == (1, {"unplug": 1})
    assert (stats.captured, stats.given, stats.dropped) == (2, 2, 0)
    assert all(fake.released for fake in bench.opened)
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == "camera 0: its reads fail, as if it were unplugged"
    assert caplog.messages[1].startswith("camera 0: frames come again, after 0.")


def test_the_handle_is_closed_under_it(tmp_path: Path) -> None:
    path = film(tmp_path / "camera.avi", range(100))
    handles: list[Any] = []

    class Handle:
        """A real capture; the test takes its handle away between two reads."""

        def __init__(self) -> None:
            self.capture = cv2.VideoCapture(str(path))
            self.between = threading.Lock()
            handles.append(self)

        def read(self) -> tuple[bool, Any]:
            time.sleep(0.002)
            with self.between:
                return self.capture.read()

        def release(self) -> None:
            self.capture.release()

    with Camera(lambda _: Handle(), "camera 0", patience=QUICK) as camera:
        first = camera.read(LONG_S)
        with handles[0].between:
            handles[0].capture.release()
        back = camera.read(LONG_S)
        while not camera.stats().reconnects:
            back = camera.read(LONG_S)
        assert back.frame.shape == first.frame.shape
        assert set(camera.stats().faults) == {"unplug"}
    stats = camera.stats()
    assert stats.captured == stats.given + stats.dropped


class Steady(Fake):
    """A camera that works: the same picture every 5 ms."""

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.005)
        return True, picture(2)


def test_a_stall_is_left_to_itself_and_the_camera_opened_again(bench: Bench) -> None:
    hanging = Fake(picture(1))
    with bench.camera(hanging, Steady(), patience=STALLS) as camera:
        assert take(camera, 2) == [1, 2]
        assert not hanging.released  # its read is still under way
        hanging.give(picture(66))  # the driver comes back, too late
        until(lambda: hanging.released)
        assert take(camera, 3) == [2, 2, 2]
        assert (camera.stats().reconnects, camera.stats().faults) == (1, {"stall": 1})


def test_an_open_that_hangs(bench: Bench) -> None:
    late = Fake(picture(66))
    bench.script = [[picture(1), *UNPLUGGED]]
    opens = itertools.count()

    def open_capture(stop: threading.Event) -> Fake:
        if next(opens) == 1:
            stop.wait(LONG_S)  # longer than start_s: another attempt is made meanwhile
            return late
        return bench.open(stop)

    with Camera(open_capture, "camera 0", patience=STALLS) as camera:
        bench.script.append(Steady())
        assert take(camera, 2) == [1, 2]
        until(lambda: late.released)  # opened too late, and not needed


def test_attempts_double_up_to_a_bound() -> None:
    waits = itertools.islice(backoff(Patience(retry_s=0.5, retry_most_s=8.0)), 8)
    assert list(waits) == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    for wait in itertools.islice(backoff(Patience()), 5000):  # a night without a camera
        assert wait <= 8.0


def test_it_is_given_up_in_the_end(bench: Bench) -> None:
    patience = Patience(stall_s=0.05, start_s=0.05, retry_s=0.01, give_up_s=0.2)
    with bench.camera([picture(1), *UNPLUGGED], patience=patience) as camera:
        with pytest.raises(
            SourceError, match=r"gives no more frames, for \d s .(cannot open|its reads)"
        ) as told:
            take(camera, 2)
        assert not isinstance(told.value, SourceEnded)
        until(lambda: not camera._keeper.is_alive())
        for read in (camera.read, lambda: camera.read_latest(0.01)):
            with pytest.raises(SourceError, match="is it unplugged, or used elsewhere"):
                read()
    assert bench.opened[0].released


def test_a_robot_never_gives_up(bench: Bench) -> None:
    patience = Patience(stall_s=LONG_S, retry_s=0.01, retry_most_s=0.02, give_up_s=None)
    with bench.camera([picture(1), *UNPLUGGED], patience=patience) as camera:
        assert take(camera, 1) == [1]
        with pytest.raises(SourceError, match=r"within 0.2 s, unplug for \d\.\d s"):
            camera.read(0.2)
        bench.script = [[picture(2)]]
        assert camera.read(LONG_S).frame[0, 0, 0] == 2


def test_reads_that_hang_for_ever_are_few(bench: Bench) -> None:
    fakes = [Fake() for _ in range(20)]
    patience = Patience(
        stall_s=0.02, start_s=0.02, retry_s=0.005, retry_most_s=0.005, give_up_s=0.4
    )
    with bench.camera(*fakes, patience=patience) as camera:
        with pytest.raises(SourceError, match="no more frames"):
            camera.read()
        assert 1 < len(bench.opened) <= MOST_HUNG + 1
        for fake in bench.opened:
            fake.give(FAILED)


def test_another_resolution(bench: Bench) -> None:
    with bench.camera([picture(1)]) as camera:
        assert camera.read(LONG_S).frame.shape == (4, 6, 3)
        bench.opened[0].give(picture(2, height=8))
        assert camera.read(LONG_S).frame.shape == (8, 6, 3)
        assert camera.stats().faults == {"resolution": 1}


CORRUPT = {
    "none": None,
    "empty": np.zeros((0, 6, 3), np.uint8),
    "wrong dtype": np.zeros((4, 6, 3), np.uint16),
    "wrong shape": np.zeros((4, 6, 7), np.uint8),
    "depth of another view": (picture(0), np.ones((4, 9), np.uint16)),
    "not decoded": FAILED,
}


@pytest.mark.parametrize("item", CORRUPT.values(), ids=CORRUPT.keys())
def test_a_corrupt_frame_is_skipped(bench: Bench, item: Any) -> None:
    with bench.camera([item, picture(1), item, item, picture(2)]) as camera:
        wait_for(camera, 2)
        until(lambda: camera.stats().faults == {"corrupt": 3})
        grab = camera.read(LONG_S)
        assert (grab.frame_id, int(grab.frame[0, 0, 0])) == (1, 2)
        stats = camera.stats()
    assert (stats.given, stats.dropped, stats.reconnects) == (1, 1, 0)


def test_a_camera_that_sends_only_corrupt_frames_says_so(bench: Bench) -> None:
    patience = Patience(stall_s=0.05, start_s=0.05, retry_s=0.01, give_up_s=0.5)
    deep = np.zeros((4, 6), np.uint16)
    with bench.camera([deep] * 9, patience=patience) as camera:
        with pytest.raises(SourceError, match=r"gave no frame within 0.1 s.*corrupt for"):
            camera.read(0.1)
        with pytest.raises(SourceError, match="no more frames"):
            camera.read()
        assert camera.stats().faults["corrupt"] > 1


def test_black_frames_are_given(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_mm_runtime.sources.faults.BLACK_S", 0.0)
    with bench.camera([picture(0)]) as camera:
        assert take(camera, 1) == [0]
        assert camera.stats().faults == {"black": 1}


def test_what_cannot_be_opened_is_told_at_once(bench: Bench) -> None:
    with pytest.raises(SourceError, match="cannot open camera 0"):
        bench.camera()
    with pytest.raises(UsageError, match="give_up_s is 0: give a positive number of seconds"):
        Patience(give_up_s=0)


def test_closing_ends_whoever_waits(bench: Bench) -> None:
    camera = bench.camera([], patience=Patience(stall_s=60, start_s=60))
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend(camera))
    reader.start()
    camera.close()
    reader.join(LONG_S)
    assert not reader.is_alive()
    assert got == []
    with pytest.raises(SourceEnded, match="camera 0 is closed"):
        camera.read()
    camera.close()


def film(path: Path, values: Any, rate: float = 100.0) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (32, 24))
    for value in values:
        writer.write(np.full((24, 32, 3), value, np.uint8))
    writer.release()
    return path


def test_a_file_at_its_own_rate_is_live(tmp_path: Path) -> None:
    path = film(tmp_path / "v.avi", range(0, 240, 20))
    started = time.monotonic()
    with open_source(path, real_time=True) as source:
        assert (source.live, source.frames_per_s) == (True, 100.0)
        grabs = list(source)
        stats = source.stats()
    assert time.monotonic() - started >= 0.11  # twelve frames, 10 ms apart
    assert stats.captured == 12 == stats.given + stats.dropped
    assert grabs[-1].frame_id == 11  # the last one is waited for
    assert all(
        grab.timestamp_s is not None and started < grab.timestamp_s < started + LONG_S
        for grab in grabs
    )
    assert not stats.faults


def test_a_file_that_nobody_reads_ends_and_closes(tmp_path: Path) -> None:
    path = film(tmp_path / "v.avi", range(9))
    with open_source(path, real_time=True) as source:
        wait_for(source, 9)
        assert source.read().frame_id == 8
        with pytest.raises(SourceEnded, match="has ended"):
            source.read()
        assert source.stats().dropped == 8


def test_a_camera_of_ones_own(bench: Bench) -> None:
    closed = []

    def frames() -> Iterator[Any]:
        try:
            yield picture(1), np.ones((4, 6), np.uint16)
            yield None
            yield Grab(picture(2), None, "two")
            raise RuntimeError("the sensor is hot")
        finally:
            closed.append(True)

    with open_source(frames(), real_time=True) as source:
        with pytest.raises(SourceError, match="generator of frames: the sensor is hot") as told:
            for grab in source:
                assert grab.timestamp_s is not None
        assert isinstance(told.value.__cause__, RuntimeError)
        assert source.stats().captured == 2
        assert source.stats().faults == {"corrupt": 1, "unplug": 1}
    assert closed


def test_an_iterable_that_stalls_is_waited_for() -> None:
    gate = threading.Event()

    def frames() -> Iterator[Any]:
        yield picture(1)
        gate.wait(LONG_S)
        yield picture(2)

    with open_source(frames(), real_time=True, stall_s=0.02) as source:
        assert source.read(LONG_S).frame_id == 0
        with pytest.raises(SourceError, match=r"within 0.1 s, stall for 0"):
            source.read(0.1)
        gate.set()
        assert source.read(LONG_S).frame_id == 1
        assert source.stats().faults == {"stall": 1}
        with pytest.raises(SourceEnded):
            source.read(LONG_S)


class Stream(http.server.BaseHTTPRequestHandler):
    """An IP camera: MJPEG over HTTP, `per_call` frames and then it hangs up."""

    per_call = 12

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for value in range(self.per_call):
            data = cv2.imencode(".jpg", np.full((48, 64, 3), 20 + value, np.uint8))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + data + b"\r\n")
            except OSError:
                return
            time.sleep(0.005)

    def log_message(self, *_: Any) -> None:
        pass


def test_an_ip_camera_that_hangs_up() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stream) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            with open_source(f"http://127.0.0.1:{server.server_port}/") as source:
                assert source.live
                while source.stats().reconnects < 1:
                    assert source.read(LONG_S).frame.shape == (48, 64, 3)
                assert set(source.stats().faults) == {"unplug"}
        finally:
            server.shutdown()
    stats = source.stats()
    assert stats.captured == stats.given + stats.dropped > Stream.per_call // 2


def test_a_stall_soon_after_the_start_is_seen_as_soon_as_any(bench: Bench) -> None:
    patience = Patience(stall_s=0.1, start_s=10 * LONG_S, retry_s=0.01)
    with bench.camera((picture(1),), (picture(2),), patience=patience) as camera:
        assert [camera.read(LONG_S).frame[0, 0, 0] for _ in range(2)] == [1, 2]
        assert camera.stats().faults["stall"] >= 1


def test_a_frame_of_another_clock_is_named(bench: Bench) -> None:
    with bench.camera((Grab(picture(1), time.time() + 1e9, 7), picture(2))) as camera:
        assert camera.read(LONG_S).frame[0, 0, 0] == 2
        assert camera.stats().faults == {"corrupt": 1}
        assert "time.monotonic's clock" in camera._health.last_corrupt
