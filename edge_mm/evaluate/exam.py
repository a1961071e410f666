"""The exam: fixed questions about the pictures of a folder, asked one by one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_mm.data.questions import MAKERS, Question, ask
from edge_mm.data.scenes import (
    Scene,
    Seen,
    read_frame,
    read_scenes,
    read_segmentation,
    seen_objects,
)
from edge_mm.evaluate.judge import judge
from edge_mm.evaluate.metrics import Metric, Scores, summarise
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.errors import UsageError

# Asked through the prompt, where a person cannot type the tags of a place.
EXAMINED = tuple(name for name in MAKERS if name != "identify")
REAL_WORLD = ("locate", "locate_all", "absent", "exist", "point", "count", "color")

Ask = Callable[[np.ndarray, str], Answer]


@dataclass(frozen=True)
class Item:
    """One question about one picture."""

    scene: Scene
    question: Question
    targets: tuple[Seen, ...]


@dataclass(frozen=True)
class Marked:
    """One question with its answer and what the answer counts for (see judge.py)."""

    item: Item
    answer: Answer
    scores: Scores


def questions_about(scene: Scene, number: int, held_out: bool, seed: int) -> Iterator[Item]:
    """`number` questions, of all types in turn; the same ones for the same seed."""
    rng = random.Random(f"exam/{seed}/{scene.id}")
    view = seen_objects(scene)
    names = EXAMINED if scene.camera else REAL_WORLD  # photos have boxes, kinds and colours only
    by_id = {item.id: item for item in view}
    order = rng.sample(names, len(names))
    for index in range(number):
        question = ask(view, rng, held_out, [order[index % len(order)]])
        if question:
            yield Item(scene, question, tuple(by_id[i] for i in question.objects))


def scenes_of(folder: Path, limit: int | None) -> tuple[Scene, ...]:
    """The first `limit` scenes of a data folder. UsageError when there are none, or no labels."""
    scenes = read_scenes(folder)
    if not scenes[:limit]:
        raise UsageError(f"{folder} has no scenes")
    if not any(scene.objects for scene in scenes):
        raise UsageError(f"{folder} labels no object, and the questions are made of labels")
    return scenes[:limit]


def sit(
    ask_model: Ask,
    folder: Path,
    *,
    limit: int | None = None,
    questions: int = 8,
    held_out: bool = False,
    seed: int = 0,
) -> list[list[Marked]]:
    """Ask about the scenes of a data folder: the marked answers by picture."""
    scenes = scenes_of(folder, limit)
    pictures = []
    for number, scene in enumerate(scenes, 1):
        frame, segmentation = read_frame(folder, scene), read_segmentation(folder, scene)
        size = (frame.shape[1], frame.shape[0])
        picture = []
        for item in questions_about(scene, questions, held_out, seed):
            answer = ask_model(frame, item.question.text)
            scores = judge(item.question, answer, item.targets, size, segmentation)
            picture.append(Marked(item, answer, scores))
        pictures.append(picture)
        progress("exam", number, len(scenes))
    return pictures


def examine(
    ask_model: Ask,
    folder: Path,
    *,
    limit: int | None = None,
    questions: int = 8,
    held_out: bool = False,
    seed: int = 0,
) -> dict[str, Metric]:
    """Ask about the scenes of a data folder; the metrics of judge.py with intervals."""
    pictures = sit(
        ask_model, folder, limit=limit, questions=questions, held_out=held_out, seed=seed
    )
    return summarise([[marked.scores for marked in picture] for picture in pictures], seed)


def progress(name: str, number: int, total: int) -> None:
    """How far it is, for a person who waits at a terminal."""
    if sys.stderr.isatty():
        print(f"\r{name}: {number}/{total} pictures", end="", file=sys.stderr)
