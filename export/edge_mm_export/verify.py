"""Is an exported graph still the model? Its answers against torch's, on frames and questions.

Each step of an export (fp32 graphs, then the stored precision) answers the same questions through
the runtime's own session. `compare` says how far it is from torch, `failures` what is too far. The
arithmetic is the runtime's (`edge_mm_runtime.agreement`): `edge-mm check` repeats it on the robot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from edge_mm_export.probe import Trace
from edge_mm_export.samples import Sample
from edge_mm_runtime.agreement import (
    Changed,
    Gate,
    Pair,
    StepFigures,
    compare_logits,
    cosine,
    failures,
    measure,
    same_tokens,
)
from edge_mm_runtime.image import ImageTransform

__all__ = [
    "Changed",
    "Gate",
    "StepFigures",
    "Verification",
    "compare",
    "cosine",
    "failures",
    "worst",
]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What bundle.json keeps under `verification`."""

    data: str
    frames: int
    questions: int
    gate: Gate
    steps: tuple[StepFigures, ...]


def compare(
    step: str,
    samples: Sequence[Sample],
    torch_traces: Sequence[Trace],
    traces: Sequence[Trace],
    transform: ImageTransform,
    bins: int,
) -> StepFigures:
    """Measure `traces` against torch's; all three sequences run in parallel."""
    pairs = [
        Pair(
            picture=sample.picture,
            question=sample.text,
            type=sample.type,
            placement=transform.placement(sample.frame.shape[1], sample.frame.shape[0]),
            torch=a.answer,
            exported=b.answer,
            logits=list(_logits(a, b)),
            same_tokens=same_tokens(a.generated, b.generated),
        )
        for sample, a, b in zip(samples, torch_traces, traces, strict=True)
    ]
    return measure(step, pairs, bins)


def worst(torch_traces: Sequence[Trace], traces: Sequence[Trace]) -> int:
    """Index of the answer whose logits are furthest from torch's at the end of the prompt."""
    first = [next(_logits(a, b)) for a, b in zip(torch_traces, traces, strict=True)]
    return int(np.argmin([cosine for cosine, _ in first]))


def _logits(a: Trace, b: Trace) -> Iterator[tuple[float, float]]:
    """(cosine, largest difference) at every position that both have read alike."""
    for total in sorted(a.logits.keys() & b.logits.keys()):
        if a.ids[:total] == b.ids[:total]:
            yield compare_logits(a.logits[total], b.logits[total])
