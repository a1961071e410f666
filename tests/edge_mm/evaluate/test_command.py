"""`edge-mm eval` as it is typed, on drawn scenes; a model that knows all the answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edge_mm.data.scenes import read_frame, read_scenes
from edge_mm.evaluate import command
from edge_mm.evaluate.exam import questions_about
from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.errors import BundleError, UsageError
from edge_mm_runtime.grounding import parse
from edge_mm_runtime.image import Frame


class Fake:
    """A session that answers `yes` and boxes the middle, or whatever it knows about a frame."""

    def __init__(self, known: dict[tuple[int, str], Answer]) -> None:
        self.known = known

    def ask(self, frame: Frame, text: str) -> Answer:
        middle = GroundedObject("cup", (20.0, 20.0, 60.0, 60.0), (40.0, 40.0), 0.8)
        anything = Answer("yes", (middle,), None, (), "stop", {})
        return self.known.get((hash(frame.tobytes()), text), anything)

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.fixture
def knows(scene_folder: Path) -> dict[tuple[int, str], Answer]:
    """The right answer to each question of the exam."""
    known = {}
    for scene in read_scenes(scene_folder):
        frame, size = read_frame(scene_folder, scene), np.array([scene.width, scene.height])
        for item in questions_about(scene, 8, False, 0):
            parsed = parse(item.question.answer)
            objects = tuple(
                GroundedObject(
                    target.label,
                    tuple((np.array(target.box).reshape(2, 2) * size).reshape(-1).tolist()),
                    tuple((np.array(target.point) * size).round().tolist()),
                    0.9,
                )
                for target in item.targets
            )
            known[hash(frame.tobytes()), item.question.text] = Answer(
                parsed.text,
                objects,
                parsed.found,
                (),
                "stop",
                {},
                confidence=None if objects else 0.9,
            )
    return known


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, knows: dict[tuple[int, str], Answer]) -> None:
    """`default` knows the exam; `other` does not."""
    opened = {"default": knows, "other": {}}
    monkeypatch.setattr(command, "open_model", lambda name: Fake(opened[name]))
    monkeypatch.setattr("edge_mm_runtime.bundle.load_bundle", lambda name, verify: None)


@pytest.mark.usefixtures("models")
def test_as_it_always_was(scene_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(scene_folder)]
    assert command.main(["default", *data]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "locate_acc50     100.0  [100.0, 100.0]  n=8" in lines
    for argv in (["default", *data, "--json"], ["--json", "default", *data]):
        assert command.main(argv) == 0
        printed = json.loads(capsys.readouterr().out)
        assert list(printed) == ["metrics"]
        assert set(printed["metrics"]["locate_acc50"]) == {"value", "low", "high", "n"}
        assert printed["metrics"]["point_in_mask"]["value"] == 1.0
    assert len(lines) == len(printed["metrics"])


@pytest.mark.usefixtures("models")
def test_all_suites_of_a_bundle(
    scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = "grounding,hallucination,swaps,calibration"
    files = ["--json", str(tmp_path / "e.json"), "--html", str(tmp_path / "e.html")]
    argv = ["default", "--data", str(scene_folder), "--suite", suites, "--against", "other", *files]
    assert command.main(argv) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in suites.split(","))
    found = json.loads((tmp_path / "e.json").read_text())
    metrics, against = found["metrics"], found["against"]
    assert {
        "locate_acc50",
        "pope_popular_f1",
        "words_blank",
        "swap_exist",
        "located_ece",
        "words_ece",
    } <= set(metrics)
    assert against["model"] == "other" and against["metrics"]["pope_random_acc"]["value"] == 0.5
    assert found["reliability"][0]["n"] > 0
    assert sum(one["n"] for one in found["reliability_words"]) == metrics["words_ece"]["n"]
    for name, difference in against["differences"].items():
        change = metrics[name]["value"] - against["metrics"][name]["value"]
        assert difference["value"] == pytest.approx(change, abs=2e-4), name
    assert against["differences"]["locate_acc50"]["verdict"] == "better"
    assert re.search(r"^better: .*locate_acc50", printed, re.M)

    page = (tmp_path / "e.html").read_text()
    assert page.count("<h2>") == 4 and "locate_acc50" in page and 'class="good">better' in page
    assert not re.search(r"(src|href|url)\s*[=(]", page) and "http" not in page
    for of in ("things located", "answers in words"):
        assert page.count(f"Reliability diagram of {of}") == 1
    for tag in ("svg", "table", "tr", "td", "div", "span"):
        assert len(re.findall(rf"<{tag}\b", page)) == page.count(f"</{tag}>"), tag


def test_mistakes_are_told_before_anything_is_asked(scene_folder: Path, tmp_path: Path) -> None:
    data = ["--data", str(scene_folder)]
    with pytest.raises(UsageError, match="unknown suite 'groundin': of grounding, hall"):
        command.main(["default", *data, "--suite", "groundin"])
    with pytest.raises(UsageError, match="give the checkpoint folder"):
        command.main(["default", *data, "--suite", "grounding,embeddings"])
    with pytest.raises(BundleError, match="no bundle at"):
        command.main(["default", *data, "--against", str(tmp_path / "nothing")])
    with pytest.raises(UsageError, match="there is no folder"):
        command.main(["default", *data, "--html", str(tmp_path / "no" / "page.html")])
    with pytest.raises(SystemExit):
        command.main(data)
