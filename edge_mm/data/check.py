"""What is wrong with a data folder: pictures, boxes, texts, duplicates, leaks, words, balance.

Every finding is one `Problem`: what, how many, where (the first few) and what to do.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_mm.data.fingerprints import Fingerprint, fingerprint, same, similar
from edge_mm.data.formats.given import answerable, given_questions
from edge_mm.data.questions import Question, ask
from edge_mm.data.scenes import (
    Scene,
    SceneObject,
    read_scenes,
    read_segmentation,
    seen_objects,
)
from edge_mm.demo.questions import load_questions
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import ImageError
from edge_mm_runtime.image import Frame, read_image

ADVICE = {
    "missing picture": "put the file there, or take the scene out of scenes.json",
    "unreadable picture": "replace the file, or take the scene out of scenes.json",
    "picture of another size": "set width and height of the scene to the picture's, or label again",
    "unusable segmentation": "make it again, of the picture's size, or set it to null: boxes do",
    "scene id used twice": "give each scene an id of its own: questions are found by it",
    "unusable object id": "number the objects of a scene 1 to 255, each number once",
    "inverted box": "box_xyxy is x1 y1 x2 y2, with x1 < x2 and y1 < y2; is it x y width height?",
    "empty box": "take the object out: its box is less than a pixel wide or high",
    "box outside the picture": "clip it to the picture; are the boxes of another picture size?",
    "empty text": "write the text, or take the entry out",
    "questions without a scene": "name a picture of scenes.json, or take the questions out",
    "duplicate picture": "keep one of them, with the labels of both",
    "near duplicate": "keep one of them, or see that both are on the same side of the split",
    "leaked test picture": "take it out of the training data: it would be known in the test",
    "unknown kind": "no question counts or denies it and its cells are trained as background: "
    "rename it to a kind of edge_mm/words.py, or add it there",
    "unknown color": "its cells are trained as colourless: rename it to a colour of "
    "edge_mm/words.py, or set it to null",
    "rare kind": "add pictures of it, or take it out: it will hardly be learnt",
    "one-sided answers": "add questions with other answers: the model would learn the answer "
    "without the picture",
}

SHOWN = 5  # places that a problem names
SLACK = 0.5  # pixels that a box may stick out of its picture
RARE, ENOUGH_OBJECTS = 0.01, 300  # share of all objects; with fewer objects, shares say little
ONE_SIDED, ENOUGH_ANSWERS = 0.75, 40  # share of the most common answer of a type
ASKED_SCENES, ASKED_EACH = 500, 6  # made questions that are looked at


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong, `count` times; `where` are the first places."""

    what: str
    count: int
    where: tuple[str, ...]
    advice: str


class Report(msgspec.Struct, frozen=True):
    """What a data folder holds and what is wrong with it.

    `kinds` are shares of all objects, `answers` shares of the three most common word answers of a
    question type, over given and made questions.
    """

    folder: str
    scenes: int
    objects: int
    questions: int
    problems: tuple[Problem, ...]
    kinds: dict[str, float]
    answers: dict[str, dict[str, float]]


class _Findings:
    """Problems as they are found."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.places: dict[str, list[str]] = defaultdict(list)

    def add(self, what: str, where: str, count: int = 1) -> None:
        self.counts[what] += count
        self.places[what].append(where)

    def problems(self) -> tuple[Problem, ...]:
        return tuple(
            Problem(what, self.counts[what], tuple(self.places[what][:SHOWN]), advice)
            for what, advice in ADVICE.items()
            if what in self.counts
        )


def check_folder(folder: Path, test: Path | None = None) -> Report:
    """Look at every picture and label of `folder`; `test`: a data folder that must not be in it.

    UsageError when either is no data folder, or its questions.json cannot be read.
    """
    folder, found = Path(folder), _Findings()
    scenes = read_scenes(folder)
    prints = []
    for scene in scenes:
        _check_labels(scene, found)
        if (picture := _picture(folder, scene, found)) is not None:
            prints.append(picture)
    for name, times in Counter(scene.id for scene in scenes).items():
        if times > 1:
            found.add("scene id used twice", name, times - 1)
    _check_texts(folder, scenes, found)
    _check_duplicates(prints, found)
    if test is not None:
        _check_leaks(prints, Path(test), found)
    given = given_questions(folder)
    answers = _answers([q for some in given.values() for q in some], scenes)
    kinds = _check_kinds(scenes, found)
    shares = _check_answers(answers, found)
    return Report(
        str(folder),
        len(scenes),
        sum(len(scene.objects) for scene in scenes),
        sum(len(some) for some in given.values()),
        found.problems(),
        kinds,
        shares,
    )


def text(report: Report) -> str:
    """The report for people."""
    lines = [
        f"{report.folder}: {report.scenes} pictures, {report.objects} objects, "
        f"{report.questions} questions of its own"
    ]
    for problem in report.problems:
        more = ", ..." if problem.count > len(problem.where) else ""
        lines.append(f"{problem.count} x {problem.what}: {', '.join(problem.where)}{more}")
        lines.append(f"    {problem.advice}")
    return "\n".join([*lines, *([] if report.problems else ["no problems found"])])


def _picture(folder: Path, scene: Scene, found: _Findings) -> Fingerprint | None:
    """Check the scene's files; the fingerprint of its picture, None when it cannot be read."""
    frame = _frame(folder, scene, found)
    if frame is None:
        return None
    size = (scene.height, scene.width)
    if frame.shape[:2] != size:
        found.add(
            "picture of another size",
            f"{scene.image} is {frame.shape[1]}x{frame.shape[0]}, not {scene.width}x{scene.height}",
        )
    try:
        segmentation = read_segmentation(folder, scene)
    except ImageError:
        found.add("unusable segmentation", f"{scene.segmentation} cannot be read")
    else:
        if segmentation is not None and segmentation.shape != frame.shape[:2]:
            found.add("unusable segmentation", f"{scene.segmentation} is of another shape")
    return fingerprint(scene.image, (folder / scene.image).read_bytes(), frame)


def _frame(folder: Path, scene: Scene, found: _Findings) -> Frame | None:
    path = folder / scene.image
    try:
        return read_image(path)
    except ImageError:
        found.add("unreadable picture" if path.exists() else "missing picture", scene.image)
        return None


def _check_labels(scene: Scene, found: _Findings) -> None:
    ids = Counter(item.id for item in scene.objects)
    for item in scene.objects:
        where = f"{scene.id} object {item.id}"
        if not 1 <= item.id <= 255 or ids[item.id] > 1:
            found.add("unusable object id", where)
        if not item.kind.strip():
            found.add("empty text", f"{where}: kind")
        elif item.kind not in KINDS:
            found.add("unknown kind", f"{where}: {item.kind}")
        if item.color is not None and item.color not in COLORS:
            found.add("unknown color", f"{where}: {item.color}")
        if what := _wrong_box(item, scene):
            found.add(what, f"{where}: {' '.join(f'{v:g}' for v in item.box_xyxy)}")


def _wrong_box(item: SceneObject, scene: Scene) -> str | None:
    x1, y1, x2, y2 = item.box_xyxy
    if x2 < x1 or y2 < y1:
        return "inverted box"
    if x1 < -SLACK or y1 < -SLACK or x2 > scene.width + SLACK or y2 > scene.height + SLACK:
        return "box outside the picture"
    return "empty box" if x2 - x1 < 1 or y2 - y1 < 1 else None


def _check_texts(folder: Path, scenes: Sequence[Scene], found: _Findings) -> None:
    if not (folder / "questions.json").is_file():
        return
    questions, labelled = load_questions(folder)
    for picture in questions.pictures:
        if picture.file not in labelled:
            found.add("questions without a scene", picture.file, len(picture.questions))
        for number, question in enumerate(picture.questions):
            for name in ("text", "answer"):
                value = getattr(question, name)
                if value is not None and not value.strip():
                    found.add("empty text", f"{picture.file} question {number}: {name}")


def _check_duplicates(prints: Sequence[Fingerprint], found: _Findings) -> None:
    doubles = set()
    for item, earlier in same(prints):
        doubles.add(id(item))
        found.add("duplicate picture", f"{item.name} = {earlier.name}")
    for item, earlier in similar([item for item in prints if id(item) not in doubles]):
        found.add("near duplicate", f"{item.name} ~ {earlier.name}")


def _check_leaks(prints: Sequence[Fingerprint], test: Path, found: _Findings) -> None:
    unheard = _Findings()  # the test folder has a check of its own
    tested = [p for scene in read_scenes(test) if (p := _picture(test, scene, unheard)) is not None]
    for item, other in similar(prints, tested):
        found.add("leaked test picture", f"{item.name} ~ {test / other.name}")


def _check_kinds(scenes: Sequence[Scene], found: _Findings) -> dict[str, float]:
    """Share of each kind, the most frequent first."""
    counts = Counter(item.kind for scene in scenes for item in scene.objects)
    total = counts.total()
    for kind, count in counts.items():
        if total >= ENOUGH_OBJECTS and count < RARE * total:
            found.add("rare kind", f"{kind} ({count} of {total} objects)")
    return {kind: count / total for kind, count in counts.most_common()}


def _answers(given: Sequence[Question], scenes: Sequence[Scene]) -> dict[str, Counter[str]]:
    """How often each answer in words is the right one, by type; places are not counted."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question in (*given, *_made(scenes)):
        if question.answer.strip() and "<" not in question.answer:
            answers[question.type][question.answer] += 1
    return answers


def _made(scenes: Sequence[Scene]) -> Iterator[Question]:
    """Some of the questions that a training run would make, the same ones each time."""
    kinds = answerable(scenes)
    labelled = [scene for scene in scenes if scene.objects]
    for index in np.linspace(0, len(labelled) - 1, min(len(labelled), ASKED_SCENES), dtype=int):
        scene = labelled[index]
        view, rng = seen_objects(scene), random.Random(f"check/{scene.id}")
        for _ in range(ASKED_EACH):
            if (question := ask(view, rng, kinds=kinds)) is not None:
                yield question


def _check_answers(
    answers: dict[str, Counter[str]], found: _Findings
) -> dict[str, dict[str, float]]:
    """Shares of the three most common answers of each type."""
    shares = {}
    for name, counts in sorted(answers.items()):
        total = counts.total()
        shares[name] = {answer: count / total for answer, count in counts.most_common(3)}
        (answer, share), *_ = shares[name].items()
        if total >= ENOUGH_ANSWERS and share > ONE_SIDED:
            found.add("one-sided answers", f"{name}: {100 * share:.0f} % say {answer!r}", total)
    return shares
