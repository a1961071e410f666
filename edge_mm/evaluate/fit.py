"""What makes decisions and confidences of raw probabilities, fitted on answers: pure functions.

existence threshold  the least share of `<ref>` against `<none>` at which "it is there" is the
                     better answer: the best mean of (found what is there, refused what is not)
temperature          T of sigmoid(logit(p) / T) with the least negative log likelihood of what was
                     right: temperature scaling, Guo et al., arXiv 1706.04599, section 4.2; none
                     where it worsens the Brier score
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from edge_mm.evaluate.calibration import auroc, calibration_error
from edge_mm.evaluate.exam import Marked
from edge_mm_runtime.confidence import calibrate

LEAST_PAIRS = 30
NOISE = 0.01
"""Of the difference of two trials' means, on about 1,000 questions (95 % of the time): a threshold
that moved with it would make refusals differ from one model to the next."""
LOWEST, HIGHEST = 0.05, 20.0  # of the temperature; beyond, a confidence is a step or says nothing
PRECISION = 1e-6  # of log T

Pairs = Sequence[tuple[float, bool]]  # confidence in 0..1, and whether it was right


class Trial(msgspec.Struct, frozen=True):
    """How often a threshold was right about things that are there and things that are not."""

    threshold: float | None
    found: float
    refused: float
    mean: float


class Errors(msgspec.Struct, frozen=True):
    """Of so many confidences: the expected calibration error and the Brier score.

    auroc  area under the ROC curve; None where all are right, or none is
    """

    n: int
    ece: float
    brier: float
    auroc: float | None = None


class Fit(msgspec.Struct, frozen=True):
    """A temperature; None with the reason why there is none."""

    temperature: float | None
    reason: str = ""


def trial(threshold: float | None, found: Sequence[bool], refused: Sequence[bool]) -> Trial:
    """The shares of one threshold; neither sequence may be empty."""
    shares = float(np.mean(found)), float(np.mean(refused))
    return Trial(threshold, *shares, sum(shares) / 2)


def best(trials: Sequence[Trial], had: float | None) -> Trial:
    """The best mean, the first of equals; what the model `had` if that is as good within noise."""
    most = max(trials, key=lambda one: one.mean)
    kept = next((one for one in trials if one.threshold == had), most)
    return kept if most.mean - kept.mean < NOISE else most


def pairs(
    exam: Sequence[Sequence[Marked]],
    types: Sequence[str],
    said: Callable[[Marked], Iterator[tuple[float, bool]]],
) -> list[tuple[float, bool]]:
    """What `said` (calibration.located or .worded) makes of the answers to these types."""
    return [
        one
        for picture in exam
        for marked in picture
        if marked.item.question.type in types
        for one in said(marked)
    ]


def fit_temperature(found: Pairs) -> Fit:
    """The temperature of raw confidences, where they are enough to tell one."""
    right = sum(one for _, one in found)
    if len(found) < LEAST_PAIRS:
        return Fit(None, f"{len(found)} answers, at least {LEAST_PAIRS} are needed")
    if right in (0, len(found)):
        return Fit(None, f"all {len(found)} answers are {'right' if right else 'wrong'}")
    margin = _margins(found)
    place = _minimum(
        lambda x: _loss(margin, float(np.exp(x))), float(np.log(LOWEST)), float(np.log(HIGHEST))
    )
    temperature = float(np.exp(place))
    if not LOWEST * 1.01 < temperature < HIGHEST / 1.01:
        return Fit(None, f"the best would be outside {LOWEST} to {HIGHEST}")
    return Fit(temperature)


def useful(fit: Fit, found: Pairs) -> Fit:
    """The fit, or none where confidences are no nearer to what was right with it (Brier score).

    A few answers that are surely wrong can rule the likelihood, and flatten all the others.
    """
    with_it, without = errors(found, fit.temperature), errors(found, None)
    if fit.temperature is None or with_it is None or without is None:
        return fit
    if with_it.brier < without.brier:
        return fit
    return Fit(
        None,
        f"{fit.temperature:.2f} has the greater likelihood, but the Brier score would be "
        f"{with_it.brier:.4f} instead of {without.brier:.4f}",
    )


def errors(found: Pairs, temperature: float | None) -> Errors | None:
    """Of raw confidences under a temperature; None where there are none."""
    if not found:
        return None
    confidence = np.array([calibrate(raw, temperature) for raw, _ in found])
    right = np.array([float(one) for _, one in found])
    each = np.ones(len(found))
    return Errors(
        len(found),
        calibration_error(confidence, right, each),
        float(np.mean((confidence - right) ** 2)),
        auroc(confidence, right, each) if 0 < right.sum() < len(found) else None,
    )


def _margins(found: Pairs) -> np.ndarray:
    """Logits of the confidences [N], with the sign of what was right; bounded as `calibrate`."""
    raw, right = np.array(found, np.float64).T
    bounded = np.clip(raw, 1e-6, 1 - 1e-6)
    margin: np.ndarray = np.log(bounded / (1 - bounded)) * (2 * right - 1)
    return margin


def _loss(margin: np.ndarray, temperature: float) -> float:
    """Mean negative log likelihood in nats."""
    return float(np.logaddexp(0.0, -margin / temperature).mean())


def _minimum(of: Callable[[float], float], low: float, high: float) -> float:
    """Golden section search. The likelihood is convex in 1 / T, so it has one valley in log T."""
    ratio = (5**0.5 - 1) / 2
    inner, outer = high - ratio * (high - low), low + ratio * (high - low)
    at_inner, at_outer = of(inner), of(outer)
    while high - low > PRECISION:
        if at_inner <= at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - ratio * (high - low)
            at_inner = of(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + ratio * (high - low)
            at_outer = of(outer)
    return (low + high) / 2
