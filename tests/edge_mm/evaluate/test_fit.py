"""Temperatures against labels drawn from a known one, and against a fine grid."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge_mm.evaluate import fit as f
from edge_mm_runtime.confidence import calibrate


def drawn(temperature: float, number: int, seed: int = 0) -> list[tuple[float, bool]]:
    """Raw confidences whose logits, divided by `temperature`, tell how often they are right."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(1.0, 2.5, number)
    right = rng.random(number) < 1 / (1 + np.exp(-logits / temperature))
    return [(float(1 / (1 + np.exp(-z))), bool(one)) for z, one in zip(logits, right, strict=True)]


def mean_loss(found: f.Pairs, temperature: float) -> float:
    """Negative log likelihood by hand, with the runtime's own scaling."""
    said = [(calibrate(raw, temperature), right) for raw, right in found]
    likely = [p if right else 1 - p for p, right in said]
    return -sum(math.log(p) for p in likely) / len(said) if all(likely) else math.inf


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    found = f.fit_temperature(drawn(temperature, 20_000))
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert found.reason == ""


@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_of_a_fine_grid_is_likelier(seed: int) -> None:
    found = [*drawn(1.7, 40, seed), (1.0, True), (0.0, False), (0.9999999, False)]
    temperature = f.fit_temperature(found).temperature
    assert temperature is not None
    least = mean_loss(found, temperature)
    assert math.isfinite(least)
    for other in np.geomspace(f.LOWEST, f.HIGHEST, 400):
        assert least <= mean_loss(found, float(other)) + 1e-10, other


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (drawn(1.0, 29), "29 answers, at least 30 are needed"),
        ([(0.7, True)] * 40, "all 40 answers are right"),
        ([(0.7, False)] * 40, "all 40 answers are wrong"),
        ([(0.9, True), (0.2, False)] * 20, "the best would be outside"),
        ([(0.9, False), (0.2, True)] * 20, "the best would be outside"),
    ],
)
def test_what_tells_no_temperature(found: list[tuple[float, bool]], reason: str) -> None:
    fitted = f.fit_temperature(found)
    assert fitted.temperature is None
    assert reason in fitted.reason


def test_errors_by_hand() -> None:
    found = [(0.8, True), (0.8, False), (0.5, True)]
    raw, halved = f.errors(found, None), f.errors(found, 2.0)
    assert raw is not None and halved is not None
    assert raw.n == halved.n == 3
    assert raw.ece == pytest.approx((0.6 + 0.5) / 3)
    assert raw.brier == pytest.approx((0.04 + 0.64 + 0.25) / 3)
    assert raw.auroc == halved.auroc == 0.25  # as sure as the wrong one, and less sure
    only_right = f.errors(found[:1], None)
    assert only_right is not None and only_right.auroc is None
    # logit(0.8) = log 4, half of it log 2: 2 / 3
    assert halved.ece == pytest.approx((1 / 3 + 0.5) / 3)
    assert halved.brier == pytest.approx((1 / 9 + 4 / 9 + 0.25) / 3)
    assert f.errors([], None) is None


def test_a_fit_helps_the_overconfident() -> None:
    found = drawn(3.0, 2_000)
    before, after = f.errors(found, None), f.errors(found, f.fit_temperature(found).temperature)
    assert before is not None and after is not None
    assert before.ece > 0.12 and after.ece < 0.04
    assert after.brier < before.brier


def test_the_best_threshold_by_hand() -> None:
    trials = [
        f.trial(None, [True, True, True, True], [True, False]),
        f.trial(0.6, [True, True, True, True], [True, True, True, False]),
        f.trial(0.7, [True, True, True, False], [True, True]),
        f.trial(0.9, [True, False], [True, True]),
    ]
    assert [one.mean for one in trials] == [0.75, 0.875, 0.875, 0.75]
    assert f.best(trials, 0.9).threshold == 0.6, "the first of equals"
    assert f.best(trials, 0.7).threshold == 0.7, "the one that it had is as good"
    near = [f.Trial(0.4, 0.9, 0.959, 0.9295), f.Trial(0.6, 0.95, 0.927, 0.9385)]
    assert f.best(near, 0.4).threshold == 0.4
    assert f.best([near[0], f.Trial(0.6, 0.95, 0.93, 0.94)], 0.4).threshold == 0.6


def test_a_temperature_that_a_few_sure_errors_rule_is_not_used() -> None:
    # 9 of 10 are right at 0.9: calibrated, but for five that are surely wrong.
    found = [(0.9, n % 10 > 0) for n in range(200)] + [(1 - 1e-6, False)] * 5
    fit = f.fit_temperature(found)
    assert fit.temperature is not None and fit.temperature > 1.3
    refused = f.useful(fit, found)
    assert refused.temperature is None and "Brier score would be 0." in refused.reason
    sure = [(0.99, n % 4 > 0) for n in range(200)]  # 0.99 said, 0.75 right
    assert f.useful(kept := f.fit_temperature(sure), sure) is kept
