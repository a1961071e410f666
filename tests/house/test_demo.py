"""`edge-mm demo`: its questions fit its pictures, its verdicts are right, its page is whole."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge_mm_runtime
from edge_mm import cli
from edge_mm.demo.judge import iou, judge
from edge_mm.demo.page import Card, Film, Row, render_page, score
from edge_mm.demo.questions import Question, load_questions
from edge_mm_runtime.answer import Answer, GroundedObject

Shell = Callable[..., subprocess.CompletedProcess[str]]


def answer(text: str, *objects: GroundedObject, found: bool | None = None) -> Answer:
    return Answer(text, objects, found, (), "stop", {"total": 1.0})


def thing(*box: float, point: tuple[float, float] | None = None) -> GroundedObject:
    return GroundedObject("red cup", (box[0], box[1], box[2], box[3]), point, 0.9)


@pytest.fixture
def frames(repository: Path) -> Path:
    return repository / "examples" / "frames"


# the shipped frames


def test_every_picture_is_labelled_asked_about_and_licensed(frames: Path) -> None:
    questions, boxes = load_questions(frames)
    pictures = {path.name for path in frames.glob("*.jpg")}
    assert {picture.file for picture in questions.pictures} == pictures
    assert set(boxes) <= pictures
    assert all((frames / video.file).is_file() for video in questions.videos)


def test_the_questions_are_of_several_kinds(frames: Path) -> None:
    questions, _ = load_questions(frames)
    asked = [question for picture in questions.pictures for question in picture.questions]
    assert {"auto", "point", "caption"} <= {question.mode for question in asked}
    assert any(question.objects == [] for question in asked), "nothing absent is asked for"
    assert any(question.answer for question in asked)


def test_annotations_lie_inside_their_pictures(frames: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    real, rendered = (
        json.loads((frames / name).read_text())["scenes"]
        for name in ("scenes.json", "rendered.json")
    )
    assert len(real) == 19
    for frame in real + rendered:
        height, width = cv2.imread(str(frames / frame["image"])).shape[:2]
        assert (width, height) == (frame["width"], frame["height"])
        for x1, y1, x2, y2 in (item["box_xyxy"] for item in frame["objects"]):
            assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height


# verdicts


def test_iou_by_hand() -> None:
    assert iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


LABELS = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)]


@pytest.mark.parametrize(
    ("question", "given", "right"),
    [
        (Question("?", answer="White"), answer("white."), True),
        (Question("?", answer="2"), answer("3"), False),
        (Question("?", objects=[0]), answer("red cup", thing(0, 0, 10, 9)), True),
        (Question("?", objects=[0]), answer("red cup", thing(20, 0, 30, 10)), False),
        (Question("?", objects=[0, 1]), answer("red cup", thing(0, 0, 10, 10)), False),
        (
            Question("?", objects=[0, 1]),
            answer("red cup", thing(20, 0, 30, 10), thing(0, 0, 10, 10)),
            True,
        ),
        (Question("?", objects=[]), answer("not in view", found=False), True),
        (Question("?", objects=[]), answer("red cup", thing(0, 0, 10, 10)), False),
        (Question("?", objects=[]), answer("maybe"), False),
        (Question("?", "point", objects=[1]), answer("", thing(0, 0, 1, 1, point=(25, 5))), True),
        (
            Question("?", "point", objects=[1]),
            answer("", thing(20, 0, 30, 10, point=(5, 5))),
            False,
        ),
    ],
)
def test_judge(question: Question, given: Answer, right: bool) -> None:
    verdict = judge(question, given, LABELS)
    assert verdict is not None and verdict.right is right


def test_judge_says_nothing_without_a_label() -> None:
    assert judge(Question("describe it", "caption"), answer("a red cup"), LABELS) is None


# the page


def test_page_is_self_contained_and_escaped() -> None:
    frame = np.zeros((40, 60, 3), np.uint8)
    row = Row("find <the> cup", answer("red cup", thing(5.0, 6.0, 25.0, 36.0)), 41.4)
    pointed = Row("point", answer("red cup", thing(1, 1, 2, 2, point=(9.0, 8.0))), 3.0, "point")
    page = render_page(
        "nano", [Card("a.jpg", frame, [row, pointed])], [Film("v.mp4", "find it", [])]
    )
    assert "find &lt;the&gt; cup" in page and "<the>" not in page
    assert '<rect x="5.0" y="6.0" width="20.0" height="30.0"' in page
    assert '<circle cx="9.0" cy="8.0"' in page
    assert "41 ms" in page
    addresses = re.findall(r'(?:src|href)="([^"]*)|url\(([^)]*)|(https?://\S*)', page)
    assert all(address[0].startswith("data:image/jpeg;base64,") for address in addresses)
    assert len(addresses) == 1


def test_score_counts_only_what_was_judged() -> None:
    good, bad = (judge(Question("?", answer="a"), answer(text), []) for text in ("a", "b"))
    verdicts = [(1.0, good), (2.0, bad), (9.0, None)]
    rows = [Row("", answer(""), latency_ms, "auto", verdict) for latency_ms, verdict in verdicts]
    assert score([Card("a.jpg", np.zeros((2, 2, 3), np.uint8), rows)]) == (1, 2, 3, 2.0)
    assert score([]) == (0, 0, 0, 0.0)


# the command


class FixedSession:
    """Stands for the runtime's Session: one answer whatever is asked."""

    def __init__(self, bundle: str) -> None:
        self.bundle = bundle

    def __enter__(self) -> FixedSession:
        return self

    def __exit__(self, *details: object) -> None: ...

    def ask(self, frame: np.ndarray[Any, Any], text: str, *, mode: str = "auto") -> Answer:
        height, width = frame.shape[:2]
        return answer("cup", GroundedObject("cup", (0, 0, width, height), (1.0, 1.0), 0.5))


def test_demo_prints_draws_and_writes_the_page(
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = tmp_path / "frames"
    few.mkdir()
    picture = {"file": "fridge_03.jpg", "questions": [{"text": "find the red can", "objects": [1]}]}
    video = {"file": "bottle-detection.mp4", "text": "find the bottle", "every_s": 20.0}
    (few / "questions.json").write_text(json.dumps({"pictures": [picture], "videos": [video]}))
    for name in ("scenes.json", picture["file"], video["file"]):
        (few / str(name)).symlink_to(frames / str(name))
    monkeypatch.setattr(edge_mm_runtime, "Session", FixedSession, raising=False)

    out = tmp_path / "out"
    assert cli.main(["demo", "--frames", str(few), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "find the red can" in printed and "0 of 1 answers right on real pictures" in printed
    assert (out / "index.html").is_file()
    drawn = sorted(path.name for path in out.glob("*.jpg"))
    assert drawn[0].startswith("bottle-detection-") and drawn[-1] == "fridge_03-1.jpg"
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "no such file"),
        ({"questions.json": "{"}, "questions.json"),
        ({"questions.json": '{"pictures": [], "movies": []}'}, "movies"),
        (
            {
                "questions.json": '{"pictures": [{"file": "a.jpg", "questions": '
                '[{"text": "find it", "objects": [3]}]}]}'
            },
            "names objects [3], but the labels have 0",
        ),
    ],
)
def test_bad_frames_folder_is_one_line(
    files: dict[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert cli.main(["demo", "--frames", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_missing_bundle_is_one_line(shell: Shell) -> None:
    result = shell("edge-mm", "demo", "--bundle", "no/such/bundle")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "no/such/bundle" in result.stderr


def test_the_shipped_model_answers(shell: Shell, shipped_bundle: Path, tmp_path: Path) -> None:
    result = shell("edge-mm", "demo", "--out", "out")
    assert result.returncode == 0, result.stderr
    assert "answers right on real pictures" in result.stdout
    assert (tmp_path / "out" / "index.html").is_file()
