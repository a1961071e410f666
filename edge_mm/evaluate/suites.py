"""The suites of the evaluation: which questions are asked, and the figures that come of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edge_mm.evaluate.against import Difference, compare
from edge_mm.evaluate.calibration import Bin, calibration
from edge_mm.evaluate.exam import Ask, sit
from edge_mm.evaluate.hallucination import hallucination
from edge_mm.evaluate.metrics import Figure, Metric, figures, measure
from edge_mm.evaluate.prior import text_prior
from edge_mm.evaluate.swaps import swap_exam


@dataclass(frozen=True)
class Plan:
    """What to ask: the suites, and about which pictures how many questions of which words."""

    suites: Sequence[str]
    folder: Path
    limit: int | None = None
    questions: int = 8
    held_out: bool = False
    seed: int = 0


class Result(NamedTuple):
    """The figures of a suite over so many pictures."""

    figures: dict[str, Figure]
    pictures: int


@dataclass(frozen=True)
class Report:
    """The results by suite, and the tables behind the calibration of things and of words."""

    results: dict[str, Result]
    seed: int
    bins: list[Bin] = field(default_factory=list)
    word_bins: list[Bin] = field(default_factory=list)

    def metrics(self) -> dict[str, dict[str, Metric]]:
        """Metrics by suite and name."""
        return {
            suite: measure(found, pictures, self.seed)
            for suite, (found, pictures) in self.results.items()
        }

    def against(self, other: Report) -> dict[str, dict[str, Difference]]:
        """Differences to a report of the same plan, by suite and name."""
        return {
            suite: compare(found, other.results[suite].figures, pictures, self.seed)
            for suite, (found, pictures) in self.results.items()
        }


def run(ask_model: Ask, checkpoint: Path | None, plan: Plan) -> Report:
    """Ask all suites of a plan; `embeddings` needs the checkpoint folder."""
    results: dict[str, Result] = {}
    bins: list[Bin] = []
    word_bins: list[Bin] = []
    exam = []
    if {"grounding", "hallucination", "calibration"} & set(plan.suites):
        exam = sit(
            ask_model,
            plan.folder,
            limit=plan.limit,
            questions=plan.questions,
            held_out=plan.held_out,
            seed=plan.seed,
        )
    for suite in plan.suites:
        if suite == "grounding":
            scores = [[marked.scores for marked in picture] for picture in exam]
            results[suite] = Result(figures(scores), len(scores))
        elif suite == "hallucination":
            scores = [
                [*asked, *grey]
                for asked, grey in zip(
                    hallucination(ask_model, plan.folder, plan.limit, plan.held_out, plan.seed),
                    text_prior(ask_model, exam),
                    strict=True,
                )
            ]
            results[suite] = Result(figures(scores), len(scores))
        elif suite == "swaps":
            scores = swap_exam(ask_model, plan.folder, plan.limit, plan.held_out, plan.seed)
            results[suite] = Result(figures(scores), len(scores))
        elif suite == "calibration":
            found, bins, word_bins = calibration(exam)
            results[suite] = Result(found, len(exam))
        elif suite == "embeddings" and checkpoint is not None:
            from edge_mm.evaluate.features import features, figures_of

            extracted = features(checkpoint, plan.folder, plan.limit)
            results[suite] = Result(figures_of(extracted), len(extracted.captions))
    return Report(results, plan.seed, bins, word_bins)
