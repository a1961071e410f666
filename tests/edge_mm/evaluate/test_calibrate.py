"""`edge-mm calibrate`: on a fake that knows its shares, and on a tiny random checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from edge_mm import cli
from edge_mm.data.scenes import read_frame, read_scenes
from edge_mm.evaluate import calibrate as c
from edge_mm.evaluate.exam import questions_about
from edge_mm.evaluate.fit import Errors, Fit, trial
from edge_mm.model.checkpoint import load_config, load_model, save_checkpoint
from edge_mm.model.config import GroundingConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.session import grounding, open_model
from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.bundle import Confidence
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import Frame

Known = tuple[str, tuple[float, ...] | None, str]
THERE = ("locate", "locate_all", "point")


class Fake:
    """Says that a thing is there where its share is at least the threshold (None: 0.5).

    What is there has a share of 0.85, what is not one of 0.75. Of its boxes and of its words every
    fourth or so is wrong, and it is surer than that of both.
    """

    def __init__(self, known: dict[tuple[int, str], Known], spoken: GroundingConfig) -> None:
        self.known, self.threshold, self.asked = known, spoken.existence_threshold or 0.5, 0

    def ask(self, frame: Frame, text: str) -> Answer:
        kind, box, words = self.known[hash(frame.tobytes()), text]
        self.asked += 1
        right = self.asked % 4 > 0
        if kind not in (*THERE, "absent"):
            said = words if right else "no idea"
            return Answer(said, (), None, (), "stop", {}, confidence=0.99)
        if (0.85 if kind in THERE else 0.75) < self.threshold:
            return Answer("not in view", (), False, (), "stop", {}, confidence=0.5)
        x1, y1, x2, y2 = box if box and right else (0.0, 0.0, 1.0, 1.0)
        found = GroundedObject("cup", (x1, y1, x2, y2), ((x1 + x2) / 2, (y1 + y2) / 2), 0.95)
        return Answer("cup", (found,), True, (), "stop", {})

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def known(scene_folder: Path) -> dict[tuple[int, str], Known]:
    """By frame and text: the type of a question, a box that it means, its answer."""
    found = {}
    for scene in read_scenes(scene_folder):
        frame, size = read_frame(scene_folder, scene), np.array([scene.width, scene.height])
        for item in questions_about(scene, 28, False, c.SEED):
            box = None
            if item.targets:
                box = tuple((np.array(item.targets[0].box).reshape(2, 2) * size).ravel().tolist())
            question = item.question
            found[hash(frame.tobytes()), question.text] = question.type, box, question.answer
    return found


@pytest.fixture(scope="module")
def checkpoint(tiny_config, tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights; a short context ends the rambling of its answers."""
    torch.manual_seed(0)
    language = msgspec.structs.replace(tiny_config.language, max_position_embeddings=136)
    model = EdgeMM(msgspec.structs.replace(tiny_config, language=language))
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_checkpoint(folder, model, model.state_dict(), tokenizer, {}, dtype=torch.float32)
    return folder


def test_a_known_model(scene_folder: Path, known: dict[tuple[int, str], Known]) -> None:
    opened = []

    def open_session(spoken: GroundingConfig) -> Fake:
        opened.append(spoken)
        return Fake(known, spoken)

    was = GroundingConfig(confidence_temperature=2.0, bins=64)
    places = c.place_questions(scene_folder, read_scenes(scene_folder), 28)
    found = c.calibrate(open_session, was, scene_folder, places, 28)

    assert all(one.confidence_temperature is None and one.bins == 64 for one in opened)
    assert [one.existence_threshold for one in opened] == [*c.THRESHOLDS, 0.8, None]
    shares = {one.threshold: (one.found, one.refused, one.mean) for one in found.thresholds}
    assert shares[None] == shares[0.7] == (1.0, 0.0, 0.5)
    assert shares[0.8] == (1.0, 1.0, 1.0)
    assert shares[0.9] == (0.0, 1.0, 0.5)
    assert found.grounding.existence_threshold == 0.8
    # All words have one confidence, so the likeliest temperature makes it the share of the right.
    words = found.after["words"]
    assert words is not None and words.n >= 30 and words.ece == pytest.approx(0.0, abs=1e-4)
    assert found.before["words"] is not None and found.before["words"].ece > 0.2
    assert found.before["located"] is not None and found.after["located"] is not None
    assert found.before["located"].n > found.after["located"].n, "then nothing was refused"


def test_the_command_writes_three_numbers_and_what_they_are_worth(
    checkpoint: Path,
    scene_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(c, "THRESHOLDS", (None, 0.8))
    before, files = json.loads((checkpoint / "config.json").read_text()), set(checkpoint.iterdir())
    arguments = ["calibrate", str(checkpoint), "--data", str(scene_folder), "--limit", "1"]
    assert cli.main([*arguments, "--questions", "7", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    after = json.loads((checkpoint / "config.json").read_text())
    assert [one["threshold"] for one in out["thresholds"]] == [None, 0.8]
    assert out["pictures"] == 1
    assert "at least 30 are needed" in out["words"]["reason"]
    for name in c.FITTED:
        assert after["grounding"].pop(name) == out["grounding"][name]["after"]
        before["grounding"].pop(name)
    assert after == before
    assert set(checkpoint.iterdir()) == files | {checkpoint / "calibration.json"}
    recorded = c.read_record(checkpoint, load_config(checkpoint).grounding)
    assert recorded is not None and recorded["pictures"] == 1
    assert recorded["after"] == out["after"] and set(recorded["fitted"]) == set(c.FITTED)
    other = GroundingConfig(confidence_temperature=7.0)
    assert c.read_record(checkpoint, other) is None, "it is of other numbers"
    (checkpoint / "calibration.json").write_text("{")
    with pytest.raises(UsageError, match=r"calibration.json is damaged"):
        c.read_record(checkpoint, other)
    (checkpoint / "calibration.json").unlink()
    assert c.read_record(checkpoint, other) is None
    assert load_config(checkpoint).name == "tiny"


def test_the_text_says_what_was_done(checkpoint: Path) -> None:
    fitted = c.Calibrated(
        60,
        [trial(None, [True], [False]), trial(0.8, [True], [True])],
        GroundingConfig(existence_threshold=0.8, confidence_temperature=1.25),
        Fit(1.25),
        Fit(None, "12 answers, at least 30 are needed"),
        {"located": Errors(90, 0.123, 0.2), "words": None},
        {"located": Errors(80, 0.045, 0.1, 0.875), "words": None},
    )
    text = c.as_text(checkpoint, GroundingConfig(existence_threshold=0.7), fitted)
    assert "| 0.8 | 1.000 | 1.000 | 1.000 |" in text
    assert "existence_threshold     0.8 (was 0.7)" in text
    assert "words_temperature       None (was None; not fitted: 12 answers" in text
    assert "before  error 0.123  Brier score 0.200  n=90" in text
    assert "after   error 0.045  Brier score 0.100  AUROC 0.875  n=80" in text
    assert "the same 60 pictures" in text


def test_bad_input(
    checkpoint: Path,
    scene_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = ["--data", str(scene_folder)]
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    for name in ("default", str(bundle)):
        with pytest.raises(UsageError, match="checkpoint folder that it was exported from"):
            c.main([name, *data])
    with pytest.raises(UsageError, match="is not a checkpoint"):
        c.main([str(tmp_path), *data])
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    scene = {"id": "0", "image": "0.png", "width": 9, "height": 9, "objects": []}
    cup = {"id": 1, "kind": "cup", "color": None, "box_xyxy": [1, 1, 8, 8]}
    for scenes, message in (
        ([scene], "labels no object"),
        ([scene, {**scene, "objects": [cup]}], "no question about a thing that is there"),
    ):
        (nothing / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": scenes}))
        with pytest.raises(UsageError, match=message):
            c.main([str(checkpoint), "--data", str(nothing), "--limit", "1"])
    (bundle / "config.json").write_text("{}")
    (bundle / ".config.json.tmp").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*config.json: Is a directory"):
        c.write(bundle, GroundingConfig())
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UsageError, match="read-only"):
        c.main([str(checkpoint), *data])


def test_what_a_bundle_says() -> None:
    assert grounding(GroundingConfig()).confidence is None
    assert grounding(GroundingConfig(confidence_temperature=1.5)).confidence == Confidence(1.5)
    assert grounding(GroundingConfig(words_temperature=0.8)).confidence == Confidence(1.0, 0.8)


def test_a_session_with_other_numbers(checkpoint: Path) -> None:
    spoken = GroundingConfig(existence_threshold=0.3, words_temperature=0.8)
    with open_model(load_model(checkpoint), checkpoint, spoken) as session:
        assert session.bundle.manifest.grounding == grounding(spoken)
        assert session.bundle.manifest.grounding.existence_threshold == 0.3
