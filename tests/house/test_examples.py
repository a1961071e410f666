"""The examples are short, and they run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
# What each is started with, so that it ends by itself; an example that is not here has no test.
ARGUMENTS = {
    "ask_picture.py": ["examples/frames/bottles_cups_02.jpg", "find the green bottle"],
    "train_own_objects.py": ["examples/frames", "TMP/coco.json", "TMP/run", "2"],
    "export_and_check.py": ["models/nano", "TMP/bundle"],
    "watch_camera.py": ["examples/frames/bottle-detection.mp4", "find the blue bottle", "3"],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES} == set(ARGUMENTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


def coco_of_rendered_frames(frames: Path) -> dict[str, object]:
    """The shipped renderings as a person's own data set would be: images, boxes, categories."""
    scenes = json.loads((frames / "rendered.json").read_text())["scenes"]
    boxes = [(number, item) for number, scene in enumerate(scenes) for item in scene["objects"]]
    names = sorted({f"{item['color']} {item['kind']}" for _, item in boxes})
    return {
        "images": [
            {"id": n, "file_name": s["image"], "width": s["width"], "height": s["height"]}
            for n, s in enumerate(scenes)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        "annotations": [
            {
                "image_id": number,
                "category_id": names.index(f"{item['color']} {item['kind']}"),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for number, item in boxes
            for x1, y1, x2, y2 in [item["box_xyxy"]]
        ],
    }


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(
    name: str, shell: Shell, shipped_bundle: Path, repository: Path, tmp_path: Path
) -> None:
    frames = repository / "examples" / "frames"
    (tmp_path / "coco.json").write_text(json.dumps(coco_of_rendered_frames(frames)))
    arguments = [argument.replace("TMP", str(tmp_path)) for argument in ARGUMENTS[name]]
    result = shell("python", f"examples/{name}", *arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
