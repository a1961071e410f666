"""The report as one HTML file with everything inside, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from edge_mm.evaluate.against import NOISE, Difference
from edge_mm.evaluate.calibration import Bin
from edge_mm.evaluate.catalogue import SUITES, about, written
from edge_mm.evaluate.metrics import Metric
from edge_mm.evaluate.suites import Plan, Report

CLASSES = {"better": "good", "worse": "bad", NOISE: "soft"}


def render_page(models: Sequence[str], reports: Sequence[Report], plan: Plan) -> str:
    """The whole page as one HTML text; a second report is the one to compare with."""
    import minijinja

    metrics = [report.metrics() for report in reports]
    differences = reports[0].against(reports[1]) if len(reports) > 1 else {}
    suites = [
        {
            "name": suite,
            "text": SUITES[suite],
            "pictures": reports[0].results[suite].pictures,
            "rows": [
                _row(name, [found[suite].get(name) for found in metrics], compared.get(name))
                for name in ours
            ],
            "diagrams": _diagrams(reports[0]) if suite == "calibration" else [],
        }
        for suite, ours in metrics[0].items()
        for compared in (differences.get(suite, {}),)
    ]
    verdicts: list[tuple[str, Difference]] = [
        (name, one) for found in differences.values() for name, one in found.items()
    ]
    template = files("edge_mm.evaluate").joinpath("page.html").read_text(encoding="utf-8")
    return minijinja.Environment(
        templates={"page.html": template}, trim_blocks=True
    ).render_template(
        "page.html",
        models=list(models),
        data=str(plan.folder),
        questions=plan.questions,
        held_out=plan.held_out,
        seed=plan.seed,
        suites=suites,
        counts={word: sum(d.verdict == word for _, d in verdicts) for word in ("better", "worse")},
        compared=len(verdicts),
        by_chance=f"{len(verdicts) / 20:.1f}",
    )


def _row(
    name: str, metrics: Sequence[Metric | None], difference: Difference | None
) -> dict[str, Any]:
    known = about(name)
    return {
        "name": name,
        "text": known.text,
        "n": metrics[0].n if metrics[0] else 0,
        "cells": [_cell(name, metric, known.scale) for metric in metrics],
        "difference": difference
        and {
            "value": written(name, difference.value, True),
            "interval": f"{written(name, difference.low, True).strip()} to "
            f"{written(name, difference.high, True).strip()}",
            "verdict": difference.verdict,
            "class": CLASSES.get(difference.verdict, ""),
        },
    }


def _cell(name: str, metric: Metric | None, scale: float) -> dict[str, Any] | None:
    """A value with its interval, and where its bar and whisker lie in 0..100."""
    if metric is None:
        return None

    def place(value: float) -> float:
        return round(100 * min(max(value / scale, 0.0), 1.0), 2) if scale else 0.0

    return {
        "value": written(name, metric.value),
        "interval": f"{written(name, metric.low).strip()} to {written(name, metric.high).strip()}",
        "bar": scale > 0,
        "end": place(metric.value),
        "low": place(metric.low),
        "high": place(metric.high),
    }


def _diagrams(report: Report) -> list[dict[str, Any]]:
    """One for each table of the calibration that holds something."""
    tables = {"things located": report.bins, "answers in words": report.word_bins}
    return [{"of": of, "bins": [_bin(one) for one in bins]} for of, bins in tables.items() if bins]


def _bin(one: Bin) -> dict[str, Any]:
    """A bin in percent of the diagram's sides."""
    return {
        "n": one.n,
        "x": round(100 * one.low, 2),
        "width": round(100 * (one.high - one.low), 2),
        "right": round(100 * one.right, 2),
        "confidence": round(100 * one.confidence, 2),
    }
