"""What the demo asks: `questions.json` beside the pictures, and the labels of these.

Labels lie in `scenes.json` (real pictures, drawn by people) and `rendered.json` (exact).

A question may say what is right: `answer` (the text of a free answer) or `objects` (indices into
the picture's annotations; an empty list means that nothing of the kind is in view).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_mm.data.scenes import read_scenes
from edge_mm_runtime.answer import MODES, Mode
from edge_mm_runtime.errors import UsageError

Box = tuple[float, float, float, float]
LABELS = ("scenes.json", "rendered.json")


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str
    mode: Mode = "auto"
    answer: str | None = None
    objects: list[int] | None = None


class Picture(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    questions: list[Question]
    rendered: bool = False  # scored apart: a renderer's picture is easier than a real one


class Video(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    file: str
    text: str
    every_s: float = 1.0


class Questions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pictures: list[Picture]
    videos: list[Video] = []


def shipped_frames() -> Path:
    """The folder examples/frames of the repository, seen from here or from the current folder."""
    beside = Path("examples") / "frames"
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / beside / "questions.json").is_file():
            return root / beside
    raise UsageError(
        f"the demo's pictures ({beside}) are not here: run it in a checkout, or give --frames DIR"
    )


def load_questions(folder: Path) -> tuple[Questions, dict[str, list[Box]]]:
    """Questions of the folder, and per picture the labelled boxes (none without labels)."""
    path = folder / "questions.json"
    try:
        questions = msgspec.json.decode(path.read_bytes(), type=Questions)
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} cannot be read: {error} (modes: {', '.join(MODES)})") from None
    scenes = [
        scene for name in LABELS if (folder / name).is_file() for scene in read_scenes(folder, name)
    ]
    boxes = {scene.image: [item.box_xyxy for item in scene.objects] for scene in scenes}
    for picture in questions.pictures:
        known = len(boxes.get(picture.file, []))
        for question in picture.questions:
            if any(not 0 <= index < known for index in question.objects or []):
                raise UsageError(
                    f"{path}: {picture.file}, {question.text!r} names objects "
                    f"{question.objects}, but the labels have {known} of them"
                )
    return questions, boxes
