"""`edge-mm check` on models that say what they are told, against references written by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_mm.cli import main as cli
from edge_mm_runtime import session
from edge_mm_runtime.bundle import load_bundle, write_manifest
from edge_mm_runtime.commands.check import main
from edge_mm_runtime.errors import BundleError

SPOKEN = "<ref>red cup</ref><box>"
CELL = 6
TEXTS = ("find the red cup", "where is the red cup", "show me the red cup")
FRAME = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
GATE = {"logits_cosine": 0.99, "same_answers": 0.95, "mean_iou": 0.95, "within_half_bin": 0.95}


@pytest.fixture
def referenced(
    spoken_bundle: Callable[..., Path], tokenizer: Tokenizer, boxes: np.ndarray
) -> Callable[..., Path]:
    """A bundle that says and points at what it is told; its references say SPOKEN and CELL."""

    def build(spoken: str = SPOKEN, **options: Any) -> Path:
        folder = spoken_bundle(spoken, **{"point_at": CELL, **options})
        kept = folder / "references"
        kept.mkdir()
        cv2.imwrite(str(kept / "00.png"), FRAME)
        box = boxes[CELL].astype(float)
        places = [f"<loc{int(value * 128):03d}>" for value in box[:4]]
        ids = tokenizer.encode(SPOKEN + "".join(places) + "</box>", add_special_tokens=False).ids
        questions = [
            {
                "picture": "00.png",
                "question": text,
                "type": "locate" if text.startswith("find") else "where",
                "mode": "locate",
                "text": "red cup",
                "found": True,
                "objects": [
                    {
                        "label": "red cup",
                        "box_xyxy": list(box[:4] * [80, 60, 80, 60]),
                        "point_xy": list(box[4:] * [80, 60]),
                        "confidence": 0.9,
                    }
                ],
                "top_ids": [tokenizer.token_to_id("<ref>"), tokenizer.token_to_id("<none>")],
                "top_logits": [20.0, 0.0],
                "ids": ids,
            }
            for text in TEXTS
        ]
        (kept / "references.json").write_text(
            json.dumps({"max_new_tokens": 32, "questions": questions})
        )
        manifest = load_bundle(folder).manifest
        write_manifest(folder, msgspec.structs.replace(manifest, verification={"gate": GATE}))
        return folder

    return build


def checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([str(folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_the_same_answers_pass(
    referenced: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = referenced()
    code, report = checked(folder, capsys)
    assert (code, report["passed"], report["failures"]) == (0, True, [])
    assert (report["target"], report["precision"], report["files"]) == ("cpu", "fp32", 5)
    figures = report["figures"]
    assert (figures["questions"], figures["boxes"]) == (3, 3)
    for name in ("same_answers", "same_tokens", "within_half_bin"):
        assert figures[name] == 1.0
    assert figures["mean_iou"] == pytest.approx(1.0, abs=1e-5)
    assert figures["logits_cosine"] == pytest.approx(1.0)
    assert (figures["logits_difference_max"], figures["point_error"]) == pytest.approx((0, 0))
    assert {name: item["questions"] for name, item in report["by_type"].items()} == {
        "locate": 1,
        "where": 2,
    }
    assert main([str(folder)]) == 0
    table = capsys.readouterr().out
    assert "5 files" in table and "FAILED" not in table
    assert [line.split()[0] for line in table.splitlines()[4:]] == ["locate", "where", "all", "at"]


def test_the_picture_on_openvino(
    referenced: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(referenced()), "--device", "openvino"]) == 0
    assert "on OpenVINO and ONNX Runtime's CPU provider, compared" in capsys.readouterr().out


def test_another_place_is_named(
    referenced: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = checked(referenced(point_at=9), capsys)
    assert code == 1
    failures = " ".join(report["failures"])
    assert "mean_iou 0.0000 < 0.66" in failures and "within_half_bin 0.0000 < 0.66" in failures
    assert "same_answers" not in failures and "logits" not in failures


def test_another_answer_is_named(
    referenced: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(referenced("<ref>blue bowl</ref><box>"))]) == 1
    told = capsys.readouterr().out
    assert "FAILED: same_answers 0.0000 < 0.666" in told
    assert "00.png, 'find the red cup': torch said 'red cup', here it is 'blue bowl'" in told


def test_other_logits_are_named(
    referenced: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = checked(referenced(doubt=2.0), capsys)  # <none> at 18 instead of 0
    assert code == 1
    assert report["figures"]["logits_cosine"] == pytest.approx(20 / np.hypot(20, 18))
    assert report["figures"]["logits_difference_max"] == pytest.approx(18)
    assert report["failures"] == ["logits_cosine 0.7433 < 0.99"]


@pytest.mark.parametrize("broken", [0, 1])
def test_a_graph_that_fails_is_a_failed_check(
    referenced: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    broken: int,
) -> None:
    """All questions, or the first one only."""
    answer, asked = session.read_answer, []

    def fail(*values: Any, **options: Any) -> Any:
        asked.append(values)
        if broken == 0 or len(asked) == 1:
            raise ValueError("confidence of 'cup' is nan")
        return answer(*values, **options)

    folder = referenced()
    monkeypatch.setattr(session, "read_answer", fail)
    code, report = checked(folder, capsys)
    assert (code, len(report["failures"])) == (1, 1 if broken else 3)
    assert report["failures"][0] == "confidence of 'cup' is nan (00.png, 'find the red cup')"
    assert (report["figures"] is None) is (broken == 0)
    assert main([str(folder)]) == (0 if broken else 1)  # in words as well


def test_without_references_it_asks_in_every_mode(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny_bundle)]) == 0
    told = capsys.readouterr().out
    assert "no references in it to compare with" in told and told.count(" ok: ") == 6
    code, report = checked(tiny_bundle, capsys)
    assert (code, len(report["answers"]), "figures" in report) == (0, 6, False)


def test_what_cannot_be_checked_is_one_line_and_exit_code_2(
    referenced: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = referenced()
    assert cli(["check", str(folder), "--target", "tensorrt"]) == 2
    assert "has no graphs for target 'tensorrt', it has: cpu" in capsys.readouterr().err
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    picture = copy / "references" / "00.png"
    picture.write_bytes(picture.read_bytes()[:-1])
    assert cli(["check", str(copy)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "00.png" in error
    write_manifest(folder, msgspec.structs.replace(load_bundle(folder).manifest, verification={}))
    with pytest.raises(BundleError, match="no gate to hold its references to"):
        main([str(folder)])
