"""The report as one HTML file with everything inside, nothing loaded from anywhere.

Tables, curves, the last token map and the failures are readable without JavaScript; it adds the
slider, and the cosine matrix and the plane that move with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from edge_mm.demo.page import data_uri
from edge_mm.evaluate.catalogue import about, written
from edge_mm.evaluate.exam import Marked
from edge_mm.evaluate.judge import pixels
from edge_mm.evaluate.metrics import Metric
from edge_mm.report.alignment import FIGURES, cosines, figures, plane
from edge_mm.report.curves import HEIGHT, WIDTH, Axis, Curve, Line, curves, stages_of
from edge_mm.train.trace import Look, Subjects
from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.grounding import parse
from edge_mm_runtime.image import Frame

TEMPLATES = ("page.html", "page.css", "page.js")
THUMBNAIL_PX, FAILURE_PX = 160, 320


@dataclass(frozen=True)
class Exam:
    """What a model was asked about a data folder, and the worst answers with their frames."""

    data: str
    pictures: int
    questions: int
    metrics: dict[str, Metric]
    failures: list[tuple[Marked, Frame]]


@dataclass(frozen=True)
class Report:
    """All that the page shows; `looks` has one at least."""

    name: str
    subjects: Subjects
    frames: list[Frame]
    looks: list[Look]
    lines: list[Line] = field(default_factory=list)
    exam: Exam | None = None


def render_page(report: Report) -> str:
    """The whole page as one HTML text."""
    import minijinja

    folder = files("edge_mm.report")
    templates = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in TEMPLATES}
    looks = report.looks
    axis = Axis(
        stages_of(
            [(line["stage"], line["samples"]) for line in report.lines]
            + [(look.stage, look.samples) for look in looks]
        )
    )
    found = [figures(look, report.subjects) for look in looks]
    points, kept = plane(looks)
    seen = [
        {"stage": look.stage, "step": look.step, "samples": look.samples, **one}
        for look, one in zip(looks, found, strict=True)
    ]
    environment = minijinja.Environment(templates=templates, trim_blocks=True)
    return environment.render_template(
        "page.html",
        name=report.name,
        subjects=_subjects(report),
        figures=FIGURES,
        looks=seen,
        kept=kept,
        width=WIDTH,
        height=HEIGHT,
        stages=_stages(axis),
        charts=[_chart(curve) for curve in curves(seen, axis)] if len(looks) > 1 else [],
        curves=[_chart(curve) for curve in curves(report.lines, axis)],
        grid=report.subjects.grid,
        maps=_maps(report),
        legend=_legend(report),
        exam=report.exam and _exam(report.exam),
        data={
            "looks": [
                {
                    **one,
                    "x": float(axis.x(look.samples)),
                    "cosines": cosines(look).round(3).tolist(),
                    "points": coordinates.round(3).tolist(),
                    "word": look.word.tolist(),
                    "cosine": look.cosine.round(2).tolist(),
                }
                for look, one, coordinates in zip(looks, seen, points, strict=True)
            ],
            "words": report.subjects.words,
            "shown": report.subjects.shown,
        },
    )


def color(word: int, words: int) -> str:
    """A colour for a word of so many: neighbours in the list are told apart by lightness too."""
    return f"hsl({360 * word // words} 75% {(42, 62)[word % 2]}%)"


def _subjects(report: Report) -> list[dict[str, str]]:
    return [
        {"caption": caption, "image": data_uri(frame, THUMBNAIL_PX)}
        for caption, frame in zip(report.subjects.captions, report.frames, strict=True)
    ]


def _stages(axis: Axis) -> list[dict[str, Any]]:
    return [
        {"name": stage.name, "start": float(start), "end": float(end)}
        for stage, start, end in zip(axis.stages, axis.edges, axis.edges[1:], strict=False)
    ]


def _chart(curve: Curve) -> dict[str, Any]:
    return {
        "name": curve.name,
        "text": FIGURES.get(curve.name, ""),
        "lines": curve.lines,
        "held_out": curve.held_out,
        "low": f"{curve.low:.4g}",
        "high": f"{curve.high:.4g}",
        "last": f"{curve.last:.4g}",
    }


def _maps(report: Report) -> list[dict[str, Any]]:
    """Token maps of the last look."""
    subjects, last = report.subjects, report.looks[-1]
    if subjects.grid is None:
        return []
    return [
        {
            "image": data_uri(report.frames[picture], FAILURE_PX),
            "caption": subjects.captions[picture],
            "cells": [
                {
                    "x": token % subjects.grid,
                    "y": token // subjects.grid,
                    "word": subjects.words[word],
                    "color": color(word, len(subjects.words)),
                    "cosine": float(cosine),
                    "shown": subjects.words[shown] if shown >= 0 else "",
                    "right": word == shown,
                }
                for token, (word, cosine, shown) in enumerate(
                    zip(
                        last.word[row].tolist(),
                        last.cosine[row].tolist(),
                        subjects.shown[row],
                        strict=True,
                    )
                )
            ],
        }
        for row, picture in enumerate(subjects.mapped)
    ]


def _legend(report: Report) -> list[dict[str, str]]:
    words = report.subjects.words
    return [{"word": word, "color": color(i, len(words))} for i, word in enumerate(words)]


def _exam(exam: Exam) -> dict[str, Any]:
    return {
        "data": exam.data,
        "pictures": exam.pictures,
        "questions": exam.questions,
        "metrics": [
            {
                "name": name,
                "text": about(name).text,
                "value": written(name, metric.value),
                "low": written(name, metric.low).strip(),
                "high": written(name, metric.high).strip(),
                "n": metric.n,
            }
            for name, metric in exam.metrics.items()
        ],
        "failures": [_failure(marked, frame) for marked, frame in exam.failures],
    }


def _failure(marked: Marked, frame: Frame) -> dict[str, Any]:
    height, width = frame.shape[:2]
    question = marked.item.question
    return {
        "image": data_uri(frame, FAILURE_PX),
        "title": marked.item.scene.id,
        "type": question.type,
        "question": question.text,
        "answer": marked.answer.text,
        "right": parse(question.answer).text,
        "width": width,
        "height": height,
        "predicted": [_place(item, question.type) for item in marked.answer.objects],
        "true": [
            {"label": item.label, "place": pixels(item.box, (width, height))}
            for item in marked.item.targets
        ],
    }


def _place(item: GroundedObject, asked: str) -> dict[str, Any]:
    """Its point where a point was asked for, else its box."""
    place = item.point_xy if asked == "point" else item.box_xyxy or item.point_xy
    return {"label": f"{item.label} {item.confidence:.2f}", "place": place or ()}
