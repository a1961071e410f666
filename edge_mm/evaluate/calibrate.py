"""`edge-mm calibrate CHECKPOINT --data DIR`: fit what makes decisions of raw probabilities.

Three numbers of `grounding` in the checkpoint's config.json, for its next export:
  existence_threshold     from which share of `<ref>` against `<none>` on a thing is there
  confidence_temperature  of the confidence of located things
  words_temperature       of the confidence of answers in words
The pictures must be ones that the model was not trained on, and no figure may come from them.
What the confidences are worth with them is written beside it, for the export's report.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_mm_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_mm.data.scenes import Scene
    from edge_mm.evaluate.fit import Errors, Fit, Trial
    from edge_mm.model.config import GroundingConfig
    from edge_mm_runtime.session import Session

    Open = Callable[[GroundingConfig], Session]

THRESHOLDS = (None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SEED = 1  # of the questions; those of `edge-mm eval` are others by default
FITTED = ("existence_threshold", "confidence_temperature", "words_temperature")
CONFIG = "config.json"
CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Calibrated:
    """What was fitted, and why; before and after by kind, over the same pictures."""

    pictures: int
    thresholds: list[Trial]
    grounding: GroundingConfig
    located: Fit
    words: Fit
    before: dict[str, Errors | None]
    after: dict[str, Errors | None]


def main(argv: list[str]) -> int:
    """Parse, fit, write, print."""
    arguments = parse(argv)
    check(arguments.checkpoint)

    from edge_mm_runtime.extras import require

    require("cv2", "cpu")
    require("torch", "train")
    from edge_mm.evaluate.exam import scenes_of
    from edge_mm.model.checkpoint import load_model
    from edge_mm.model.session import open_model

    scenes = scenes_of(arguments.data, arguments.limit)
    places = place_questions(arguments.data, scenes, arguments.questions)
    model = load_model(arguments.checkpoint)
    was = model.config.grounding
    found = calibrate(
        lambda spoken: open_model(model, arguments.checkpoint, spoken),
        was,
        arguments.data,
        places,
        arguments.questions,
    )
    write(arguments.checkpoint, found.grounding)
    record(arguments.checkpoint, found, arguments.data)
    if arguments.json:
        print(json.dumps(as_json(arguments.checkpoint, was, found)))
    else:
        print(as_text(arguments.checkpoint, was, found))
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="edge-mm calibrate",
        description="Fit a checkpoint's existence threshold and confidence temperatures, and write "
        "them into its config.json for the next export.",
        epilog="Give pictures that it was not trained on and that no figure comes from: never "
        "those of the exam.",
    )
    parser.add_argument("checkpoint", type=Path, help="a checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes.json")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument(
        "--questions", type=int, default=28, help="questions a picture (default: 28)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def check(folder: Path) -> None:
    """UsageError for a bundle, and for a folder that could not be written in the end."""
    from edge_mm_runtime.bundle import DEFAULT, MANIFEST

    if (folder / CONFIG).is_file():
        if not os.access(folder, os.W_OK):
            raise UsageError(
                f"{folder} is read-only, and the fitted numbers go into its {CONFIG}: give a "
                "copy of the checkpoint"
            )
    elif (folder / MANIFEST).is_file() or str(folder) == DEFAULT:
        raise UsageError(
            f"{folder} is a bundle, whose numbers are fixed: give the checkpoint folder that it "
            "was exported from, and export it again"
        )
    else:
        raise UsageError(f"{folder} is not a checkpoint: {CONFIG} is missing")


def place_questions(
    folder: Path, scenes: Sequence[Scene], number: int
) -> list[tuple[Scene, list[tuple[str, bool]]]]:
    """Each scene's questions about one thing, and whether it is there, of `number` questions.

    UsageError where no thing is there, or none is not.
    """
    from edge_mm.evaluate.exam import questions_about

    asked = [
        (
            scene,
            [
                (item.question.text, item.question.type == "locate")
                for item in questions_about(scene, number, held_out=False, seed=SEED)
                if item.question.type in ("locate", "absent")
            ],
        )
        for scene in scenes
    ]
    for there, what in ((True, "is there"), (False, "is not there")):
        if not any(one is there for _, questions in asked for _, one in questions):
            raise UsageError(
                f"{folder} gives no question about a thing that {what}: it needs pictures with "
                "annotated things (`edge-mm data check` tells what it has), and --questions 28"
            )
    return asked


def calibrate(
    open_session: Open,
    was: GroundingConfig,
    folder: Path,
    places: Sequence[tuple[Scene, list[tuple[str, bool]]]],
    questions: int,
) -> Calibrated:
    """Ask the scenes of `places` and fit.

    open_session  a Session with these fitted numbers
    was           those of the checkpoint
    places        see place_questions
    """
    from edge_mm.evaluate.calibration import PLACES, WORDS, located, worded
    from edge_mm.evaluate.exam import sit
    from edge_mm.evaluate.fit import best, errors, fit_temperature, pairs, useful

    trials = sweep(open_session, was, folder, places)
    threshold = best(trials, was.existence_threshold).threshold

    def raw(existence_threshold: float | None) -> dict[str, list[tuple[float, bool]]]:
        """Confidence without a temperature, and rightness, by kind."""
        with open_session(unscaled(was, existence_threshold)) as session:
            exam = sit(session.ask, folder, limit=len(places), questions=questions, seed=SEED)
        return {"located": pairs(exam, PLACES, located), "words": pairs(exam, WORDS, worded)}

    found = raw(threshold)
    earlier = found if threshold == was.existence_threshold else raw(was.existence_threshold)
    things, words = (useful(fit_temperature(found[kind]), found[kind]) for kind in found)
    return Calibrated(
        pictures=len(places),
        thresholds=trials,
        grounding=msgspec.structs.replace(
            was,
            existence_threshold=threshold,
            confidence_temperature=things.temperature,
            words_temperature=words.temperature,
        ),
        located=things,
        words=words,
        before={
            "located": errors(earlier["located"], was.confidence_temperature),
            "words": errors(earlier["words"], was.words_temperature),
        },
        after={
            "located": errors(found["located"], things.temperature),
            "words": errors(found["words"], words.temperature),
        },
    )


def sweep(
    open_session: Open,
    was: GroundingConfig,
    folder: Path,
    places: Sequence[tuple[Scene, list[tuple[str, bool]]]],
) -> list[Trial]:
    """Ask about things that are there and things that are not, with one threshold after another."""
    from edge_mm.data.scenes import read_frame
    from edge_mm.evaluate.exam import progress
    from edge_mm.evaluate.fit import trial

    trials = []
    for threshold in THRESHOLDS:
        right: dict[bool, list[bool]] = {True: [], False: []}
        with open_session(unscaled(was, threshold)) as session:
            for number, (scene, asked) in enumerate(places, 1):
                frame = read_frame(folder, scene)
                for text, there in asked:  # all of a frame: the encoder sees it once
                    right[there].append(session.ask(frame, text).found is there)
                progress(f"threshold {threshold}", number, len(places))
        trials.append(trial(threshold, right[True], right[False]))
    return trials


def unscaled(grounding: GroundingConfig, threshold: float | None) -> GroundingConfig:
    """The same model with this threshold and raw confidences."""
    return msgspec.structs.replace(
        grounding,
        existence_threshold=threshold,
        confidence_temperature=None,
        words_temperature=None,
    )


def write(folder: Path, grounding: GroundingConfig) -> None:
    """The fitted numbers into the checkpoint's config.json, in one rename; the rest stays."""
    raw = msgspec.json.decode((folder / CONFIG).read_bytes())
    raw["grounding"] = raw.get("grounding", {}) | fitted(grounding)
    _replace(folder / CONFIG, raw)


def record(folder: Path, found: Calibrated, data: Path) -> None:
    """What the confidences were worth, with the three numbers that it is true of."""
    _replace(
        folder / CALIBRATION,
        {
            "data": data.name,
            "pictures": found.pictures,
            "fitted": fitted(found.grounding),
            "before": msgspec.to_builtins(found.before),
            "after": msgspec.to_builtins(found.after),
        },
    )


def read_record(folder: Path, grounding: GroundingConfig) -> dict[str, Any] | None:
    """What `record` wrote; None where there is none, or it is of other numbers than these."""
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path} is damaged: {error}: run `edge-mm calibrate` again") from None
    return found if found.get("fitted") == fitted(grounding) else None


def fitted(grounding: GroundingConfig) -> dict[str, float | None]:
    """The three numbers by name."""
    return {name: getattr(grounding, name) for name in FITTED}


def _replace(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def as_json(checkpoint: Path, was: GroundingConfig, found: Calibrated) -> dict[str, Any]:
    """Everything that is printed, with the numbers as config.json now has them."""
    plain: dict[str, Any] = {"checkpoint": str(checkpoint)} | msgspec.to_builtins(found)
    plain["grounding"] = {
        name: {"before": getattr(was, name), "after": getattr(found.grounding, name)}
        for name in FITTED
    }
    return plain


def as_text(checkpoint: Path, was: GroundingConfig, found: Calibrated) -> str:
    """A Markdown table of the sweep, the three numbers, and the errors before and after."""
    reasons = ("", found.located.reason, found.words.reason)
    lines = [
        "| threshold | found what is there | refused what is not | mean |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one.threshold} | {one.found:.3f} | {one.refused:.3f} | {one.mean:.3f} |"
        for one in found.thresholds
    ]
    lines += ["", f"in {checkpoint / CONFIG}, for the next export:"]
    for name, reason in zip(FITTED, reasons, strict=True):
        value, before = getattr(found.grounding, name), getattr(was, name)
        why = f"; not fitted: {reason}" if reason else ""
        lines.append(f"  {name:<23} {_written(value)} (was {_written(before)}{why})")
    lines += [
        "",
        "expected calibration error, Brier score and area under the ROC curve of the confidences, "
        f"before and after, on the same {found.pictures} pictures (`edge-mm eval --suite "
        "calibration` measures on others):",
    ]
    for kind, name in (("located", "things located"), ("words", "answers in words")):
        for when, of in (("before", found.before[kind]), ("after", found.after[kind])):
            lines.append(f"  {name:<16}  {when:<6}  {_measured(of)}")
    return "\n".join(lines)


def _measured(of: Errors | None) -> str:
    if of is None:
        return "none"
    parts = "" if of.auroc is None else f"  AUROC {of.auroc:.3f}"
    return f"error {of.ece:.3f}  Brier score {of.brier:.3f}{parts}  n={of.n}"


def _written(value: float | None) -> str:
    return "None" if value is None else f"{value:.4g}"
