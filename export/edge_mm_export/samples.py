"""The frames and questions that an export is verified on.

A folder of either kind will do: `scenes.json` (what `edge-mm data` makes; questions are drawn from
its labels, the same ones each time) or `questions.json` beside pictures, as in examples/frames.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grammar import MODES, Mode
from edge_mm_runtime.image import Frame, read_image

MOST_FRAMES = 32
QUESTIONS_A_FRAME = 4
_SEED = 20261122

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Sample:
    """One question about one frame; `type` groups figures, e.g. locate or count."""

    picture: str
    frame: Frame
    text: str
    type: str
    mode: Mode = "auto"


class _Question(msgspec.Struct, frozen=True):
    text: str
    mode: Mode = "auto"


class _Picture(msgspec.Struct, frozen=True):
    file: str
    questions: tuple[_Question, ...]


class _Questions(msgspec.Struct, frozen=True):
    pictures: tuple[_Picture, ...]


def shipped_frames() -> Path:
    """examples/frames of a checkout; UsageError where there is none."""
    folder = Path(__file__).resolve().parents[2] / "examples" / "frames"
    if not (folder / "questions.json").is_file():
        raise UsageError(
            f"no frames to verify on: {folder} has no questions.json; give --verify-data DIR, "
            "e.g. a folder made by `edge-mm data`"
        )
    return folder


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """Questions on at most 32 frames, all about one frame in a row. UsageError without any."""
    if (folder / "scenes.json").is_file():
        samples = tuple(_from_scenes(folder))
    elif (folder / "questions.json").is_file():
        samples = tuple(_from_questions(folder))
    else:
        raise UsageError(f"{folder} has neither scenes.json nor questions.json to verify on")
    if not samples:
        raise UsageError(f"{folder} has no question to verify on")
    return samples


def _from_scenes(folder: Path) -> Iterator[Sample]:
    from edge_mm.data.questions import ask
    from edge_mm.data.scenes import read_scenes, seen_objects

    for scene in _spread(read_scenes(folder)):
        rng = random.Random(f"{_SEED}/{scene.id}")
        frame = read_image(folder / scene.image)
        view = seen_objects(scene)
        for _ in range(QUESTIONS_A_FRAME):
            question = ask(view, rng)
            if question is not None:
                yield Sample(scene.image, frame, question.text, question.type)


def _from_questions(folder: Path) -> Iterator[Sample]:
    path = folder / "questions.json"
    try:
        pictures = msgspec.json.decode(path.read_bytes(), type=_Questions).pictures
    except msgspec.MsgspecError as error:
        modes = ", ".join(MODES)
        raise UsageError(f"{path} cannot be read: {error} (modes: {modes})") from None
    for picture in _spread(pictures):
        frame = read_image(folder / picture.file)
        for question in picture.questions[:QUESTIONS_A_FRAME]:
            yield Sample(picture.file, frame, question.text, question.mode, question.mode)


def _spread(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """At most `MOST_FRAMES` of the items, evenly spread."""
    step = max(1, -(-len(items) // MOST_FRAMES))
    return items[::step]
