"""report.html of a bundle: its verification as tables and pictures, in one file below 1 MB."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import cv2
import minijinja
import msgspec

from edge_mm_export.probe import Trace
from edge_mm_export.samples import Sample
from edge_mm_export.verify import StepFigures, Verification, compare
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.bundle import BundleManifest
from edge_mm_runtime.image import Frame

TORCH = "torch"
FARTHEST, OTHERS = 6, 4  # pictures: those that differ most, and some of the others
MOST_BYTES = 900_000  # of all pictures together, as they lie in the page
_LONGER_SIDE = 480

_ROWS = {
    "same_answers": "answers equal",
    "mean_iou": "mean IoU of boxes",
    "within_half_bin": "boxes within half a bin",
    "point_error": "mean error of points",
    "same_tokens": "greedy tokens equal",
    "logits_cosine": "logits, mean cosine",
    "logits_cosine_min": "logits, lowest cosine",
    "logits_difference_max": "logits, largest difference",
    "boxes": "boxes",
}
_SHARES = ("same_answers", "within_half_bin", "same_tokens")


class _Asked(NamedTuple):
    """One question with the answers that are drawn, and how far the last step is from torch."""

    sample: Sample
    answers: dict[str, Answer]
    difference: float
    iou: float


def render_report(
    manifest: BundleManifest,
    verification: Verification,
    samples: Sequence[Sample],
    traces: Mapping[str, Sequence[Trace]],
) -> str:
    """The page of a bundle whose manifest has its verification.

    `traces` are those of "torch", then those of each step by its name; all of them and the samples
    run in parallel.
    """
    ((target, graphs),) = manifest.graphs.items()
    gate = msgspec.structs.asdict(verification.gate)
    names = [step.step for step in verification.steps]
    final = verification.steps[-1]
    page = files("edge_mm_export").joinpath("report.html").read_text(encoding="utf-8")
    return minijinja.Environment(templates={"report.html": page}).render_template(
        "report.html",
        name=manifest.name,
        target=target,
        precision=graphs.precision,
        verification=manifest.verification,
        created=manifest.provenance.created,
        checkpoint=manifest.provenance.checkpoint_sha256[:12],
        megabytes=f"{sum(file.bytes for file in manifest.files) / 1e6:.1f}",
        memory=f"{manifest.memory_estimate_bytes / 1e6:.0f}",
        steps=names,
        tiles=[
            {"label": _ROWS[field], "value": _shown(field, getattr(final, field))} for field in gate
        ],
        rows=[
            {
                "label": label,
                "values": [_shown(field, getattr(step, field)) for step in verification.steps],
                "gate": f"≥ {_shown(field, gate[field])}" if field in gate else "",
            }
            for field, label in _ROWS.items()
        ],
        types=list(_by_type(manifest, names, samples, traces)),
        changed=msgspec.to_builtins(final.changed),
        key=list(_drawn(names).items()),
        cards=_cards(manifest, names, samples, traces),
    )


def _shown(field: str, value: float) -> str:
    if isinstance(value, int) and field not in _SHARES:
        return str(value)
    return f"{100 * value:.1f} %" if field in _SHARES else f"{value:.4f}"


def _by_type(
    manifest: BundleManifest,
    steps: Sequence[str],
    samples: Sequence[Sample],
    traces: Mapping[str, Sequence[Trace]],
) -> Iterator[dict[str, Any]]:
    """A row for each type of question: how many, and the figures of each step."""
    for name in sorted({sample.type for sample in samples}):
        chosen = [index for index, sample in enumerate(samples) if sample.type == name]
        cells = []
        for step in steps:
            figures = _compare(manifest, step, chosen, samples, traces)
            places = bool(figures.boxes)
            cells.append(
                {
                    "same": f"{100 * figures.same_answers:.0f} %",
                    "share": round(100 * figures.same_answers),
                    "changed": round((1 - figures.same_answers) * len(chosen)),
                    "iou": f"{figures.mean_iou:.3f}" if places else "",
                    "point": f"{figures.point_error:.4f}" if places else "",
                }
            )
        yield {"type": name, "questions": len(chosen), "cells": cells}


def _compare(
    manifest: BundleManifest,
    step: str,
    chosen: Sequence[int],
    samples: Sequence[Sample],
    traces: Mapping[str, Sequence[Trace]],
) -> StepFigures:
    """The figures of a step on some of the questions."""
    return compare(
        step,
        [samples[index] for index in chosen],
        [traces[TORCH][index] for index in chosen],
        [traces[step][index] for index in chosen],
        manifest.image,
        manifest.grounding.bins,
    )


def _drawn(steps: Sequence[str]) -> dict[str, str]:
    """Whose boxes a picture shows, and their style: the last step may be the exact one."""
    names = dict.fromkeys((TORCH, steps[0], steps[-1]))
    return dict(zip(names, ("torch", "exact", "stored"), strict=False))


def _cards(
    manifest: BundleManifest,
    steps: Sequence[str],
    samples: Sequence[Sample],
    traces: Mapping[str, Sequence[Trace]],
) -> list[dict[str, Any]]:
    """A card for each chosen frame, those that differ most in front, as many as the page holds."""
    drawn = _drawn(steps)
    frames: dict[str, _Asked] = {}
    for index, sample in enumerate(samples):
        answers = {name: traces[name][index].answer for name in drawn}
        if any(answer.objects for answer in answers.values()):
            figures = _compare(manifest, steps[-1], [index], samples, traces)
            far = 2 - figures.same_answers - figures.mean_iou + figures.point_error
            if sample.picture not in frames or far > frames[sample.picture].difference:
                frames[sample.picture] = _Asked(sample, answers, far, figures.mean_iou)
    ranked = sorted(frames.values(), key=lambda asked: -asked.difference)
    rest = ranked[FARTHEST:]
    cards: list[dict[str, Any]] = []
    room = MOST_BYTES
    for asked in ranked[:FARTHEST] + rest[:: max(1, -(-len(rest) // OTHERS))]:
        jpeg = _jpeg(asked.sample.frame)
        if len(jpeg) <= room:
            room -= len(jpeg)
            cards.append(_card(asked, drawn, jpeg))
    return cards


def _card(asked: _Asked, drawn: Mapping[str, str], jpeg: str) -> dict[str, Any]:
    height, width = asked.sample.frame.shape[:2]
    boxes, points = [], []
    for name, colour in drawn.items():
        for item in asked.answers[name].objects:
            if item.box_xyxy is not None:
                x1, y1, x2, y2 = item.box_xyxy
                boxes.append({"of": colour, "x": x1, "y": y1, "w": x2 - x1, "h": y2 - y1})
            if item.point_xy is not None:
                points.append({"of": colour, "x": item.point_xy[0], "y": item.point_xy[1]})
    texts = {name: answer.text for name, answer in asked.answers.items()}
    return {
        "width": width,
        "height": height,
        "radius": 0.011 * max(width, height),
        "jpeg": jpeg,
        "boxes": boxes,
        "points": points,
        "picture": asked.sample.picture,
        "question": asked.sample.text,
        "answers": list(texts.items()) if len({*texts.values()}) > 1 else [],
        "answer": texts[TORCH],
        "iou": f"{asked.iou:.3f}",
    }


def _jpeg(frame: Frame) -> str:
    scale = min(1.0, _LONGER_SIDE / max(frame.shape[:2]))
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return base64.b64encode(data.tobytes()).decode("ascii")
