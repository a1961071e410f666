"""The exam: fixed questions about the pictures of a folder, asked one by one."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_mm.data.questions import MAKERS, Question, ask
from edge_mm.data.scenes import Scene, Seen, read_frame, read_scenes, seen_objects
from edge_mm.evaluate.judge import judge
from edge_mm.evaluate.metrics import Metric, summarise
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
    scenes = read_scenes(folder)[:limit]
    if not scenes:
        raise UsageError(f"{folder} has no scenes")
    pictures = []
    for number, scene in enumerate(scenes, 1):
        frame = read_frame(folder, scene)
        pictures.append(
            [
                score(item, ask_model(frame, item.question.text), frame)
                for item in questions_about(scene, questions, held_out, seed)
            ]
        )
        if sys.stderr.isatty():
            print(f"\r{number}/{len(scenes)} pictures", end="", file=sys.stderr)
    return summarise(pictures, seed)


def score(item: Item, answer: Answer, frame: np.ndarray) -> dict[str, float]:
    return judge(item.question, answer, item.targets, (frame.shape[1], frame.shape[0]))


def table(metrics: dict[str, Metric]) -> str:
    """For people: a line a metric, in percent."""
    rows: Sequence[str] = [
        f"{name:16} {100 * m.value:5.1f}  [{100 * m.low:5.1f}, {100 * m.high:5.1f}]  n={m.n}"
        for name, m in metrics.items()
    ]
    return "\n".join(rows)
