"""`edge-mm data check` finds each planted problem, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge_mm import cli
from edge_mm.data.check import ADVICE, check_folder
from edge_mm.data.fingerprints import dhash, distances, fingerprint, similar
from edge_mm.words import COLORS, KINDS

WIDTH, HEIGHT, PICTURES = 120, 90, 6


def frame(seed: int) -> np.ndarray:
    """Soft random blobs."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def write(folder: Path, scenes: list[dict[str, Any]], first: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    for number, scene in enumerate(scenes, first):
        if not (folder / scene["image"]).exists():
            cv2.imwrite(str(folder / scene["image"]), frame(number))
    (folder / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": scenes}))
    return folder


def scenes(number: int = PICTURES) -> list[dict[str, Any]]:
    return [
        {
            "id": f"s{n}",
            "image": f"{n}.png",
            "width": WIDTH,
            "height": HEIGHT,
            "objects": [
                {
                    "id": k + 1,
                    "kind": KINDS[(3 * n + k) % len(KINDS)],
                    "color": COLORS[(2 * n + k) % len(COLORS)],
                    "box_xyxy": [40 * k, 5, 40 * k + 30, 80],
                }
                for k in range(3)
            ],
        }
        for n in range(number)
    ]


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "data", scenes())


def found(folder: Path, test: Path | None = None) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {p.what: (p.count, p.where) for p in check_folder(folder, test).problems}


def test_a_good_folder_is_clean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: 6 pictures, 18 objects, 0 questions")
    assert out.endswith("no problems found\n")


Plant = Callable[[Path, list[dict[str, Any]]], Any]


def in_object(**change: Any) -> Plant:
    return lambda folder, scenes: scenes[2]["objects"][1].update(change)


def in_scene(**change: Any) -> Plant:
    return lambda folder, scenes: scenes[2].update(change)


def compress(folder: Path, scenes: list[dict[str, Any]]) -> None:
    """The first picture once more: smaller, a little darker, as a JPEG."""
    small = cv2.resize(frame(0), (WIDTH * 2 // 3, HEIGHT * 2 // 3)) * 0.95
    cv2.imwrite(str(folder / "again.jpg"), small.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 60])
    scene = {"id": "again", "image": "again.jpg", "width": 80, "height": 60, "objects": []}
    scenes.append(scene)


def ask(*questions: dict[str, Any], file: str = "2.png") -> Plant:
    asked = json.dumps({"pictures": [{"file": file, "questions": questions}]})
    return lambda folder, scenes: (folder / "questions.json").write_text(asked)


@pytest.mark.parametrize(
    ("what", "where", "plant"),
    [
        ("missing picture", "2.png", lambda f, s: (f / "2.png").unlink()),
        ("unreadable picture", "2.png", lambda f, s: (f / "2.png").write_bytes(b"GIF?")),
        ("picture of another size", "2.png is 120x90, not 120x91", in_scene(height=91)),
        ("unusable segmentation", "none.png cannot be read", in_scene(segmentation="none.png")),
        ("scene id used twice", "s1", in_scene(id="s1")),
        ("unusable object id", "s2 object 256", in_object(id=256)),
        ("inverted box", "s2 object 2: 70 5 40 80", in_object(box_xyxy=[70, 5, 40, 80])),
        ("empty box", "s2 object 2: 40 5 40.5 80", in_object(box_xyxy=[40, 5, 40.5, 80])),
        ("box outside the picture", "s2 object 2: 40 5 70 91", in_object(box_xyxy=[40, 5, 70, 91])),
        ("empty text", "s2 object 2: kind", in_object(kind=" ")),
        ("empty text", "2.png question 1: answer", ask({"text": "?"}, {"text": "?", "answer": ""})),
        ("empty text", "2.png question 0: text", ask({"text": " ", "answer": "yes"})),
        ("questions without a scene", "9.png", ask({"text": "?"}, file="9.png")),
        ("duplicate picture", "2.png = 1.png", lambda f, s: shutil.copy(f / "1.png", f / "2.png")),
        ("near duplicate", "again.jpg ~ 0.png", compress),
        ("unknown kind", "s2 object 2: fork", in_object(kind="fork")),
        ("unknown color", "s2 object 2: mauve", in_object(color="mauve")),
    ],
)
def test_a_planted_problem_is_found_alone(
    folder: Path, what: str, where: str, plant: Plant
) -> None:
    content = scenes()
    plant(folder, content)
    (folder / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": content}))
    assert found(folder) == {what: (1, (where,))}


def test_a_leaked_test_picture_is_found(folder: Path, tmp_path: Path) -> None:
    content = scenes(3)
    test = write(tmp_path / "test", content, first=50)
    assert found(folder, test) == {}
    cv2.imwrite(str(test / "1.png"), (frame(4) * 0.97).astype(np.uint8))
    assert found(folder, test) == {"leaked test picture": (1, (f"4.png ~ {test / '1.png'}",))}


def test_imbalance_is_found(tmp_path: Path) -> None:
    content = scenes(110)
    for scene in content:
        for item in scene["objects"]:
            item["kind"] = KINDS[item["id"]]
    content[7]["objects"][0]["kind"] = "hammer"
    folder = tmp_path / "data"
    folder.mkdir()
    for scene in content:  # one file for all: this test is about the labels
        scene["image"] = "0.png"
    questions = [{"text": f"dark {n}?", "answer": "no" if n else "yes"} for n in range(40)]
    ask(*questions, file="0.png")(folder, content)
    problems = found(write(folder, content))
    assert problems["rare kind"] == (1, ("hammer (1 of 330 objects)",))
    report = check_folder(folder)
    assert report.kinds["hammer"] == pytest.approx(1 / 330)
    assert report.answers["free"] == {"no": pytest.approx(39 / 40), "yes": pytest.approx(1 / 40)}
    (where,) = problems["one-sided answers"][1]
    assert where == "free: 98 % say 'no'"


def test_json_and_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "2.png").unlink()
    assert cli.main(["data", "check", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (problem,) = report["problems"]
    assert problem == {
        "what": "missing picture",
        "count": 1,
        "where": ["2.png"],
        "advice": ADVICE["missing picture"],
    }
    assert cli.main(["data", "check", str(folder)]) == 1
    assert f"1 x missing picture: 2.png\n    {ADVICE['missing picture']}" in capsys.readouterr().out
    assert cli.main(["data", "check", str(folder / "nothing")]) == 2


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["data", "check", "--help"])
    assert "1 when problems were found" in " ".join(capsys.readouterr().out.split())


def test_hash_distances_are_popcounts() -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 2**64, n, dtype=np.uint64) for n in (5, 7))
    expected = [[bin(int(x) ^ int(y)).count("1") for y in b] for x in a]
    np.testing.assert_array_equal(distances(a, b), expected)
    ramp = np.tile(np.arange(90, dtype=np.uint8), (80, 1))
    assert dhash(ramp) == 2**64 - 1 and dhash(ramp[:, ::-1]) == 0


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth picture looks like the one four before it."""
    prints = [fingerprint(str(n), b"%d" % n, frame(n % 4)) for n in range(12)]
    expected = [(str(n), str(n % 4)) for n in range(4, 12)]
    assert [(a.name, b.name) for a, b in similar(prints)] == expected
    monkeypatch.setattr("edge_mm.data.fingerprints.BLOCK", 30)
    assert [(a.name, b.name) for a, b in similar(prints)] == expected
    assert list(similar(prints, [])) == []
