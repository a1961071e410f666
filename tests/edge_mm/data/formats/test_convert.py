"""Converted folders are data folders: boxes, outlines and texts come back as they went in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mm import cli
from edge_mm.data.formats.given import given_questions
from edge_mm.data.scenes import read_frame, read_scenes, read_segmentation
from edge_mm_runtime.grounding import DEFAULT_BINS, parse

Write = Callable[[str, Any], Path]


def convert(source_format: str, source: Path, pictures: Path, *more: str) -> Path:
    out = source.parent / "out"
    arguments = ["--from", source_format, str(source), "--images", str(pictures), "--out", str(out)]
    assert cli.main(["data", "convert", *arguments, *more]) == 0
    return out


def test_coco_boxes_survive_to_half_a_bin(
    file: Write, coco: dict[str, Any], pictures: Path
) -> None:
    """COCO -> scenes -> the codec's text -> pixels."""
    references = [{"ann_id": n, "sentences": [{"sent": f"thing {n}"}]} for n in (1, 2, 3)]
    instances, refs = file("coco.json", coco), file("refs.json", references)
    out = convert("refcoco", refs, pictures, "--instances", str(instances))
    scenes = {scene.id: scene for scene in read_scenes(out)}
    wanted = {row["id"]: row["bbox"] for row in coco["annotations"]}
    seen = 0
    for name, questions in given_questions(out).items():
        scene = scenes[name]
        assert read_frame(out, scene).shape[:2] == (scene.height, scene.width)
        for question in questions:
            x, y, w, h = wanted[int(question.text.rstrip("?")[-1])]
            (region,) = parse(question.answer).objects
            size = np.array([scene.width, scene.height] * 2)
            error = np.abs(np.array(region.box) * size - [x, y, x + w, y + h])
            assert (error <= 0.5 * size / DEFAULT_BINS + 1e-9).all()
            target = next(o for o in scene.objects if o.id == question.objects[0])
            assert target.box_xyxy == (x, y, x + w, y + h)
            assert region.label == (f"{target.color} mug" if target.color else target.kind)
            seen += 1
    assert seen == 3


def test_coco_outlines_become_segmentation(
    file: Write, coco: dict[str, Any], pictures: Path
) -> None:
    coco["annotations"][0]["segmentation"] = [[10, 20, 40, 20, 40, 60, 10, 60]]
    out = convert("coco", file("coco.json", coco), pictures)
    a, b, _ = read_scenes(out)
    ids = read_segmentation(out, a)
    expected = np.zeros((80, 120), np.uint8)
    expected[20:60, 10:40] = 1
    expected[5:15, 60:80] = 2  # has a box only
    assert ids is not None
    assert (ids != expected).mean() < 0.01 and ids[40, 25] == 1
    assert b.segmentation is None and read_segmentation(out, b) is None
    assert given_questions(out) == {} and not (out / "questions.json").exists()


def test_texts_of_one_picture_come_together(file: Write, pictures: Path) -> None:
    table = "image,caption\na.png,a cup\nb.png,a bear\na.png,red cup\n"
    out = convert("csv", file("c.csv", table), pictures)
    assert [(s.id, s.width, s.height, s.objects) for s in read_scenes(out)] == [
        ("a.png", 120, 80, ()),
        ("b.png", 120, 80, ()),
    ]
    given = given_questions(out)
    assert [q.answer for q in given["a.png"]] == ["a cup", "red cup"]
    assert {q.type for q in given["a.png"]} == {"caption"} and given["b.png"][0].objects == ()


def test_missing_and_broken_pictures_are_counted(
    file: Write, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "b.png").write_bytes(b"no picture")
    rows = [
        {
            "image": name,
            "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        }
        for name in ("a.png", "b.png", "gone.png")
    ]
    out = convert("llava", file("l.json", rows), pictures)
    assert [scene.id for scene in read_scenes(out)] == ["a.png"]
    streams = capsys.readouterr()
    assert "1 pictures, 0 objects, 1 questions" in streams.out
    assert "left out 1: picture that is missing" in streams.err
    assert "left out 1: picture that cannot be read" in streams.err


@pytest.mark.parametrize(
    ("images", "out", "more", "message"),
    [
        ("nowhere", "out", [], "no such folder of pictures"),
        ("pictures", "pictures", [], "exists already"),
        ("empty", "out", [], "gives no picture"),
        ("pictures", "out", ["--split", "train"], "belong to --from refcoco"),
    ],
)
def test_a_mistake_writes_nothing(
    tmp_path: Path,
    file: Write,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    images: str,
    out: str,
    more: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    table = file("c.csv", "image,caption\na.png,a cup\n")
    arguments = ["--images", str(tmp_path / images), "--out", str(tmp_path / out), *more]
    assert cli.main(["data", "convert", "--from", "csv", str(table), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "pictures", "c.csv"}
    assert cv2.imread(str(pictures / "a.png")) is not None
