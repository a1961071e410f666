"""`edge-mm run` over pictures and videos."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mm_runtime.answer import Answer
from edge_mm_runtime.commands import run
from edge_mm_runtime.errors import MissingExtraError, SourceError, UsageError
from edge_mm_runtime.image import write_image
from edge_mm_runtime.sources import Grab
from edge_mm_runtime.watch import Look

Spoken = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of another size."""
    out = tmp_path / "pictures"
    out.mkdir()
    for index, shape in enumerate([(48, 64, 3), (48, 64, 3), (30, 90, 3)]):
        write_image(out / f"{index}.png", np.full(shape, 80, np.uint8))
    return out


def test_every_picture_is_answered_logged_and_filmed(
    spoken_bundle: Spoken, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, film = tmp_path / "log.jsonl", tmp_path / "film.avi"
    bundle = str(spoken_bundle("<ref>red cup</ref><box>"))
    options = ["--bundle", bundle, "--jsonl", str(log), "--save", str(film)]
    assert run.main(["find the red cup", "--source", str(folder), *options]) == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["frame_id"] for record in records] == ["0.png", "1.png", "2.png"]
    assert all(record["text"] == "red cup" and record["age_s"] >= 0 for record in records)
    video = cv2.VideoCapture(str(film))
    sizes = [frame.shape for done, frame in (video.read() for _ in range(4)) if done]
    assert sizes == [(48, 64, 3)] * 3
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].startswith("0.png  red cup [")
    assert "3 frames in" in shown.err


def test_it_stops_after_max_frames(
    spoken_bundle: Spoken, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(spoken_bundle("yes"))
    run.main(["is it?", "--source", str(folder), "--bundle", bundle, "--max-frames", "2"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def two_looks_a_frame() -> Iterator[Look]:
    """Three frames; an answer comes after each."""
    for number in range(3):
        grab = Grab(np.full((48, 64, 3), 50 + 60 * number, np.uint8), number / 10, number)
        for fresh in (False, True):
            answer = Answer("yes", (), None, (), "stop", {"total": 1.0})
            yield Look(grab, answer, fresh, (), again=fresh)


def test_frames_are_counted_and_not_looks(
    spoken_bundle: Spoken,
    video: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(run, "_looks", lambda *_: two_looks_a_frame())
    log, film = tmp_path / "log.jsonl", tmp_path / "film.avi"
    question = ["is it?", "--source", str(video), "--bundle", str(spoken_bundle("yes"))]
    run.main([*question, "--jsonl", str(log), "--save", str(film)])
    assert ", 3 shown, " in capsys.readouterr().err
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [record["frame_id"] for record in records] == [0, 0, 1, 1, 2, 2]
    # Three at 10 a second, in a film of 30 a second: the last one is there once.
    assert cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT) == 7
    run.main([*question, "--max-frames", "2"])
    assert ", 2 shown, " in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--real-time"]], ids=["as fast", "real time"])
def test_every_frame_of_a_video_is_shown_or_counted_as_dropped(
    spoken_bundle: Spoken,
    video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
) -> None:
    log, film = tmp_path / "log.jsonl", tmp_path / "film.mp4"
    bundle = ["--bundle", str(spoken_bundle("<ref>red cup</ref><box>"))]
    files = ["--jsonl", str(log), "--save", str(film)]
    question = ["find the red cup", "--source", str(video), "--answer-every", "0.5"]
    assert run.main([*question, *bundle, *files, *options]) == 0
    records = [json.loads(line) for line in log.read_text().splitlines()]
    shown_lines, told = capsys.readouterr()
    live = r"\d+  \S.* \| \d+ fps, [\d.]+ answers/s, p50 \d+ p95 \d+ ms, \d+ dropped, \d+ ms old"
    assert re.fullmatch(live, shown_lines.splitlines()[-1]), shown_lines
    numbers = re.match(r"(\d+) frames in .*, (\d+) shown, (\d+) dropped, (\d+) answers", told)
    assert numbers is not None, told
    captured, shown, dropped, answers = map(int, numbers.groups())
    waiting = captured - dropped - shown  # before the first answer there is nothing to show
    # Of a live source, an answer that came between two frames has a line of its own.
    frames = [record["frame_id"] for record in records]
    assert captured == 60 and shown == len(set(frames)) and 0 <= waiting < 20
    twice = [b["fresh"] for a, b in pairwise(records) if a["frame_id"] == b["frame_id"]]
    assert all(twice) and (options or not twice)
    assert answers == sum(record["fresh"] for record in records)
    assert 2 <= answers <= 5 and "p95" in told
    before = re.search(r"(\d+) before the first answer", told)
    # The one that was being read when the first answer came may be counted with them.
    assert waiting <= (int(before[1]) if before else 0) <= waiting + 1
    followed = [record["objects"][0]["track_id"] for record in records if record["objects"]]
    assert set(followed) == {1} and len(followed) > answers
    seen = cv2.VideoCapture(str(film))
    assert seen.get(cv2.CAP_PROP_FRAME_COUNT) == pytest.approx(60 - waiting, abs=2)
    assert not list(tmp_path.glob(".*partial*"))


def test_a_machine_without_windows_says_so(spoken_bundle: Spoken, folder: Path) -> None:
    bundle = ["--bundle", str(spoken_bundle("yes"))]
    with pytest.raises(MissingExtraError, match=r"cannot open a window.*edge-mm\[display\]"):
        run.main(["is it?", "--source", str(folder), *bundle, "--display"])


def test_bad_input(spoken_bundle: Spoken, folder: Path, tmp_path: Path) -> None:
    bundle = ["--bundle", str(spoken_bundle("yes"))]
    with pytest.raises(UsageError, match="the text is empty"):
        run.main(["", "--source", "97", *bundle])
    with pytest.raises(SourceError, match="cannot open camera 97"):
        run.main(["cup", "--source", "97", *bundle])
    nowhere = tmp_path / "no"
    with pytest.raises(UsageError, match=r"cannot write .*log.jsonl"):
        run.main(["cup", "--source", str(folder), *bundle, "--jsonl", str(nowhere / "log.jsonl")])
    with pytest.raises(UsageError, match=r"cannot write .*film.mp4"):
        run.main(["cup", "--source", str(folder), *bundle, "--save", str(nowhere / "film.mp4")])
    with pytest.raises(SystemExit):
        run.main(["cup", "--source", str(folder), *bundle, "--max-frames", "0"])
    for option in ("--seconds", "--answer-every"):
        for value in ("-1", "nan"):
            with pytest.raises(SystemExit):
                run.main(["cup", "--source", str(folder), *bundle, option, value])


def test_a_film_of_a_wrong_name_is_told_before_the_first_answer(
    spoken_bundle: Spoken, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = ["--bundle", str(spoken_bundle("yes"))]
    for name in ("film.txt", "film", "0.png"):
        with pytest.raises(UsageError, match=f"cannot write .*{name}: use a name that ends in"):
            run.main(["cup", "--source", str(folder), *bundle, "--save", str(folder / name)])
    assert capfd.readouterr() == ("", "")


def test_on_a_terminal_the_line_stays_one(
    spoken_bundle: Spoken,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    bundle = ["--bundle", str(spoken_bundle("a red cup on the table " * 4))]
    run.main(["what is there?", "--source", str(folder), *bundle])
    lines = capsys.readouterr().out.split("\r\x1b[2K")[1:]
    assert len(lines) == 3 and max(map(len, lines)) <= 79
    assert all(line[7:].startswith("a red cup on the table") for line in lines)
    assert all(" answers/s, p50 " in line for line in lines)
