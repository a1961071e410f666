"""Questions that come with the data: `questions.json` beside `scenes.json`.

The schema is the demo's (edge_mm.demo.questions): pictures with questions of `text`, `mode`,
`answer` and `objects` (indices into the scene's objects). Here they become training questions:

    objects, no answer   the boxes of these objects, or their points; none: `<none>`
    answer, no objects   a free answer
    both                 the answer as it stands; its n places belong to these n objects, in order
    neither              nothing to learn from, left out
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from edge_mm.data.questions import MAKERS, Question
from edge_mm.data.questions.common import region
from edge_mm.data.scenes import Scene, Seen, read_scenes, seen_objects
from edge_mm.demo.questions import Question as Given
from edge_mm.demo.questions import load_questions
from edge_mm.words import KINDS
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grounding import NONE, Region, format_objects, format_region

FREE = "free"
# Made of the words table: that a kind is not there, or how many, is known of labelled kinds only.
NEEDS_KNOWN_KINDS = ("absent", "exist", "count", "steps")


def given_questions(folder: Path) -> dict[str, tuple[Question, ...]]:
    """Scene id -> its questions, for scenes that have any; {} without a questions.json.

    UsageError when the file cannot be read, names objects that its scene does not have, or when an
    answer has other than one place an object.
    """
    folder = Path(folder)
    if not (folder / "questions.json").is_file():
        return {}
    asked: dict[str, list[Given]] = {}
    for picture in load_questions(folder)[0].pictures:
        asked.setdefault(picture.file, []).extend(picture.questions)
    found = {}
    for scene in read_scenes(folder):
        view = seen_objects(scene) if scene.image in asked else []
        made = [_question(given, view, scene, folder) for given in asked.get(scene.image, ())]
        if questions := tuple(question for question in made if question is not None):
            found[scene.id] = questions
    return found


def answerable(scenes: Sequence[Scene]) -> tuple[str, ...]:
    """The types of made questions whose right answer the labels of a folder tell."""
    objects = [item for scene in scenes for item in scene.objects]
    unknown = {"compare"} if any(item.size_m is None for item in objects) else set()
    if any(item.kind not in KINDS for item in objects):
        unknown.update(NEEDS_KNOWN_KINDS)
    return tuple(name for name in MAKERS if name not in unknown)


def draw(
    given: Sequence[Question], scene: Scene, number: int, rng: random.Random
) -> list[Question]:
    """Given questions for a sample of `number`: half of it; all where no object is labelled."""
    wanted = max(1, number // 2) if scene.objects else number
    return rng.sample(given, min(wanted, len(given)))


def _question(given: Given, view: Sequence[Seen], scene: Scene, folder: Path) -> Question | None:
    named = None if given.objects is None else [view[index] for index in given.objects]
    if given.answer is None and named is None:
        return None
    try:
        if given.answer is None:
            return _places(given, named or [])
        return _said(given, given.answer, named)
    except ValueError as error:
        raise UsageError(
            f"{folder / 'questions.json'}: scene {scene.id}, {given.text!r}: {error}"
        ) from None


def _places(given: Given, named: Sequence[Seen]) -> Question:
    if not named:
        return Question("absent", given.text, NONE, about=())
    named = sorted(named, key=lambda item: item.centre)  # as the codec orders places
    ids = tuple(item.id for item in named)
    if given.mode == "point":
        answer = "".join(format_region(Region(item.label, point=item.point)) for item in named)
        return Question("point", given.text, answer, ids, ids)
    answer = format_objects([region(item) for item in named])
    return Question("locate" if len(ids) == 1 else "locate_all", given.text, answer, ids, ids)


def _said(given: Given, answer: str, named: Sequence[Seen] | None) -> Question:
    ids = tuple(item.id for item in named or ())
    places = answer.count("<box>") + answer.count("<point>")
    if places and places != len(ids):
        raise ValueError(f"its answer has {places} places for {len(ids)} objects")
    mode = given.mode if given.mode in ("caption", "steps") else FREE
    return Question(
        "absent" if answer == NONE else mode,
        given.text,
        answer,
        ids if places else (),
        None if named is None else ids,
    )
