"""`log.jsonl` of a run -> its curves, on one axis of samples seen.

A stage that is short beside the others is drawn wider than it was: what it did is in its curve.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_mm_runtime.errors import UsageError

Line = dict[str, Any]

WIDTH, HEIGHT = 300.0, 100.0  # of a drawing
LEAST_SHARE = 0.12  # of the width, for a stage
POINTS = 300  # of a curve, at most
KEYS = ("stage", "step", "samples")  # of a line; all else is a curve
HELD_OUT = "val_"  # NAME on data.val goes into the drawing of NAME


class Stage(msgspec.Struct, frozen=True):
    """A stage and the samples seen before and after it."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Curve:
    """One name over the run; `lines` are the points of an SVG polyline for each stage."""

    name: str
    lines: list[str]
    held_out: list[str]  # the same on data.val
    low: float
    high: float
    last: float


class Axis:
    """Samples seen -> x in 0..WIDTH."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = stages
        lengths = np.array([max(stage.end - stage.start, 1) for stage in stages], float)
        shares = np.maximum(lengths / lengths.sum(), LEAST_SHARE)
        self.edges = WIDTH * np.concatenate([[0.0], (shares / shares.sum()).cumsum()])

    def x(self, samples: int | Sequence[int]) -> np.ndarray:
        """At an edge, both stages end in the same place."""
        known = [self.stages[0].start, *(stage.end for stage in self.stages)]
        return np.asarray(np.interp(samples, known, self.edges))


def read_log(path: Path) -> list[Line]:
    """The lines of the last run in a log, each with the samples seen; [] without a file.

    A resumed run writes again what it had written after its last checkpoint: of a step that was
    reached twice, the later line counts.
    """
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    lines: list[Line] = []
    for number, row in enumerate(text.splitlines(), 1):
        try:
            line = json.loads(row)  # not msgspec: a trainer may write NaN
            if "samples" in line:
                while lines and lines[-1]["samples"] >= line["samples"]:
                    lines.pop()
            else:  # a look at data.val
                line["samples"] = _samples_at(line["stage"], line["step"], lines)
        except (ValueError, KeyError) as error:
            if number > text.count("\n"):
                break  # a running trainer is writing it
            raise UsageError(f"{path}, line {number} cannot be read: {error}") from None
        lines.append(line)
    return lines


def _samples_at(stage: str, step: int, lines: Sequence[Line]) -> int:
    """Samples seen at a step, from the lines of its stage so far."""
    start = max((int(line["samples"]) for line in lines if line["stage"] != stage), default=0)
    if not lines or lines[-1]["stage"] != stage:
        return start
    a_step = (lines[-1]["samples"] - start) / lines[-1]["step"]
    return round(start + step * float(a_step))


def stages_of(marks: Iterable[tuple[str, int]]) -> list[Stage]:
    """(stage, samples seen) of all that was noted in a run -> its stages in order."""
    stages: list[Stage] = []
    for name, samples in sorted(marks, key=lambda mark: mark[1]):
        if stages and stages[-1].name == name:
            stages[-1] = msgspec.structs.replace(stages[-1], end=samples)
        else:
            stages.append(Stage(name, stages[-1].end if stages else 0, samples))
    return stages


def curves(lines: Sequence[Line], axis: Axis) -> list[Curve]:
    """A curve for every number in the lines, in the order in which they first come."""
    names = dict.fromkeys(
        name.removeprefix(HELD_OUT)
        for line in lines
        for name, value in line.items()
        if name not in KEYS and isinstance(value, (int, float))
    )
    return [found for name in names if (found := _curve(name, lines, axis)) is not None]


def _curve(name: str, lines: Sequence[Line], axis: Axis) -> Curve | None:
    """None where no value is finite."""
    ours = [_points(lines, name, stage) for stage in axis.stages]
    theirs = [_points(lines, HELD_OUT + name, stage) for stage in axis.stages]
    values = np.concatenate([*theirs, *ours])[:, 1]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    drawn, held_out = (
        [_polyline(points, axis, low, high) for points in parts if len(points)]
        for parts in (ours, theirs)
    )
    return Curve(name, drawn, held_out, low, high, float(values[-1]))


def _points(lines: Sequence[Line], name: str, stage: Stage) -> np.ndarray:
    """(samples, value) of a stage, [P,2]; of many points, means of neighbours."""
    found = [
        (line["samples"], line[name])
        for line in lines
        if name in line and line["stage"] == stage.name and line["samples"] <= stage.end
    ]
    points: np.ndarray = np.array(found, float).reshape(-1, 2)
    points = points[np.isfinite(points).all(1) & (points[:, 0] >= stage.start)]
    if len(points) <= POINTS:
        return points
    return np.array([part.mean(0) for part in np.array_split(points, POINTS)])


def _polyline(points: np.ndarray, axis: Axis, low: float, high: float) -> str:
    """A single point is drawn as a dash; values that are all the same, at half the height."""
    xs, ys = axis.x(points[:, 0].tolist()), np.full(len(points), HEIGHT / 2)
    if high > low:
        ys = HEIGHT * (high - points[:, 1]) / (high - low)
    if len(points) == 1:
        xs, ys = xs.repeat(2) + np.array([-2, 2]), ys.repeat(2)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
