"""The frames and questions that an export is verified on.

A folder of either kind will do: `questions.json` beside pictures, as in examples/frames, or
`scenes.json` (what `edge-mm data` makes; its questions are drawn, the same ones each time).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from edge_mm.data.scenes import read_frame, read_scenes
from edge_mm.demo.questions import load_questions
from edge_mm.evaluate.exam import questions_about
from edge_mm_runtime.answer import Mode
from edge_mm_runtime.errors import UsageError
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

    def in_mode(self, mode: Mode) -> Sample:
        """The same question in another mode."""
        return replace(self, mode=mode)


def read_samples(folder: Path) -> tuple[Sample, ...]:
    """Questions on at most 32 frames, all about one frame in a row. UsageError without any."""
    if (folder / "questions.json").is_file():
        samples = tuple(_from_questions(folder))
    elif (folder / "scenes.json").is_file():
        samples = tuple(_from_scenes(folder))
    else:
        raise UsageError(f"{folder} has neither questions.json nor scenes.json to verify on")
    if not samples:
        raise UsageError(f"{folder} has no question to verify on")
    return samples


def _from_scenes(folder: Path) -> Iterator[Sample]:
    for scene in _spread(read_scenes(folder)):
        frame = read_frame(folder, scene)
        for item in questions_about(scene, QUESTIONS_A_FRAME, held_out=False, seed=_SEED):
            yield Sample(scene.image, frame, item.question.text, item.question.type)


def _from_questions(folder: Path) -> Iterator[Sample]:
    for picture in _spread(tuple(load_questions(folder)[0].pictures)):
        frame = read_image(folder / picture.file)
        for question in picture.questions[:QUESTIONS_A_FRAME]:
            yield Sample(picture.file, frame, question.text, question.mode, question.mode)


def _spread(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """At most `MOST_FRAMES` of the items, evenly spread."""
    step = max(1, -(-len(items) // MOST_FRAMES))
    return items[::step]
