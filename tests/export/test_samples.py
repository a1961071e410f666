"""Both kinds of verification folders, and what is said of others."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mm_export.samples import MOST_FRAMES, QUESTIONS_A_FRAME, read_samples
from edge_mm_runtime.errors import UsageError


def test_questions_file(frames: Path) -> None:
    samples = read_samples(frames)
    assert [sample.picture for sample in samples] == ["a.png"] * 3 + ["b.png"] * 3
    assert samples[0].mode == "locate" and samples[2].mode == "auto"
    assert samples[0].frame.shape == (60, 80, 3)


def test_scenes_give_the_same_questions_every_time(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.jpg"), np.zeros((48, 64, 3), np.uint8))
    objects = [
        {"id": 1, "kind": "cup", "color": "red", "box_xyxy": [2, 4, 20, 30]},
        {"id": 2, "kind": "bowl", "color": "blue", "box_xyxy": [30, 4, 60, 30]},
    ]
    scenes = [
        {"id": f"{i:06d}", "image": "0.jpg", "width": 64, "height": 48, "objects": objects}
        for i in range(MOST_FRAMES + 3)
    ]
    (tmp_path / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": scenes}))
    samples = read_samples(tmp_path)
    assert 0 < len(samples) <= MOST_FRAMES * QUESTIONS_A_FRAME
    again = read_samples(tmp_path)
    assert [sample.text for sample in samples] == [sample.text for sample in again]
    assert len({sample.type for sample in samples}) > 2


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "neither questions.json nor scenes.json"),
        ('{"pictures": []}', "no question"),
        ("{", "cannot be read"),
        ('{"pictures": [{"file": "a", "questions": [{"text": "x", "mode": "y"}]}]}', "modes: auto"),
    ],
)
def test_unusable_folders(tmp_path: Path, content: str | None, named: str) -> None:
    if content is not None:
        (tmp_path / "questions.json").write_text(content)
    with pytest.raises(UsageError, match=named):
        read_samples(tmp_path)
