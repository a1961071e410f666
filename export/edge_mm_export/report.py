"""report.html of a bundle: its verification as one table and a few pictures, all in one file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import cv2
import minijinja
import msgspec

from edge_mm_export.probe import Trace
from edge_mm_export.samples import Sample
from edge_mm_export.verify import Verification
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.image import Frame

PICTURES = 8
_LONGER_SIDE = 320

_ROWS = {
    "logits_cosine": "logits, mean cosine",
    "logits_cosine_min": "logits, lowest cosine",
    "logits_difference_max": "logits, largest difference",
    "same_tokens": "greedy tokens equal",
    "same_answers": "answers equal",
    "boxes": "boxes",
    "mean_iou": "mean IoU of boxes",
    "within_half_bin": "boxes within half a bin",
    "point_error": "mean error of points",
}


def render_report(
    name: str,
    target: str,
    precision: str,
    verification: Verification,
    samples: Sequence[Sample],
    torch_traces: Sequence[Trace],
    traces: Sequence[Trace],
) -> str:
    """The page; the traces are those of the last step, in the order of the samples."""
    gate = msgspec.structs.asdict(verification.gate)
    cards = [
        _card(sample, a.answer, b.answer)
        for sample, a, b in _first_of_each_picture(samples, torch_traces, traces)
    ]
    page = files("edge_mm_export").joinpath("report.html").read_text(encoding="utf-8")
    return minijinja.Environment(templates={"report.html": page}).render_template(
        "report.html",
        name=name,
        target=target,
        precision=precision,
        data=verification.data,
        frames=verification.frames,
        questions=verification.questions,
        steps=[msgspec.to_builtins(step) for step in verification.steps],
        rows=[
            {
                "label": label,
                "values": [_number(getattr(step, field)) for step in verification.steps],
                "gate": f"≥ {gate[field]:g}" if field in gate else "",
            }
            for field, label in _ROWS.items()
        ],
        changed=msgspec.to_builtins(verification.steps[-1].changed),
        cards=cards,
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _first_of_each_picture(
    samples: Sequence[Sample], torch_traces: Sequence[Trace], traces: Sequence[Trace]
) -> list[tuple[Sample, Trace, Trace]]:
    """The first question of each picture in which torch drew a box, at most `PICTURES`."""
    chosen: dict[str, tuple[Sample, Trace, Trace]] = {}
    for sample, a, b in zip(samples, torch_traces, traces, strict=True):
        if any(item.box_xyxy for item in a.answer.objects):
            chosen.setdefault(sample.picture, (sample, a, b))
    return list(chosen.values())[:PICTURES]


def _card(sample: Sample, expected: Answer, found: Answer) -> dict[str, Any]:
    height, width = sample.frame.shape[:2]
    boxes = [
        {"of": of, "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
        for of, answer in (("torch", expected), ("exported", found))
        for x1, y1, x2, y2 in (item.box_xyxy for item in answer.objects if item.box_xyxy)
    ]
    question = f"{sample.picture}: {sample.text}"
    return {
        "width": width,
        "height": height,
        "jpeg": _jpeg(sample.frame),
        "boxes": boxes,
        "question": question,
    }


def _jpeg(frame: Frame) -> str:
    scale = min(1.0, _LONGER_SIDE / max(frame.shape[:2]))
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 80])
    return base64.b64encode(data.tobytes()).decode("ascii")
