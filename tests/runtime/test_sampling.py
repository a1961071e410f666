"""Sampling, against the softmax worked out by hand; and through a whole session."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime import Session
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.sampling import Sampler, greedy, open_pick

FRAME = np.zeros((60, 80, 3), np.uint8)
LOGITS = np.array([1.0, -np.inf, 0.0, 2.0, -np.inf], np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_ids_are_drawn_as_often_as_the_softmax_says(temperature: float) -> None:
    draws = 4000
    sampler = Sampler(temperature, seed=1)
    counts = np.bincount([sampler(LOGITS) for _ in range(draws)], minlength=5)
    weights = [0.0 if value == -np.inf else math.exp(value / temperature) for value in LOGITS]
    for count, weight in zip(counts, weights, strict=True):
        expected = draws * weight / sum(weights)
        assert abs(count - expected) <= 5 * math.sqrt(expected)  # 0 where it is not allowed


def test_a_seed_repeats_its_draws() -> None:
    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(1.0, seed)
        return [sampler(LOGITS) for _ in range(60)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
    assert draws(None) != draws(None)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_small_temperature_is_greedy(temperature: float) -> None:
    logits = np.array([1e4, -1e4, 1.1e4, -np.inf], np.float32)
    sampler = Sampler(temperature, seed=0)
    assert {sampler(logits) for _ in range(20)} == {2}
    assert open_pick(0.0, None) is greedy
    assert greedy(logits) == 2


@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf")])
def test_what_is_no_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match=r"temperature is .*: give 0 for the likeliest"):
        open_pick(temperature, None)
    with pytest.raises(UsageError, match=r"seed is -1: give 0 or"):
        open_pick(1.0, -1)


def test_a_session_draws_from_what_the_grammar_allows(spoken_bundle: Callable[..., Path]) -> None:
    # <none> is exp(-1) times as likely as "yes"; all else has exp(-20)
    with Session(spoken_bundle("yes", doubt=1.0), threads=1) as session:
        answers = [
            session.ask(FRAME, "is there a cup?", temperature=2.0, seed=seed) for seed in range(60)
        ]
        again = session.ask(FRAME, "is there a cup?", temperature=2.0, seed=7)
        held = session.ask(FRAME, "is there a cup?", mode="answer", temperature=2.0, seed=7)
    assert (again.text, again.confidence) == (answers[7].text, answers[7].confidence)
    said = [answer.text for answer in answers]
    assert set(said) >= {"yes", "not in view"}
    # of the two, at temperature 2: 1 / (1 + exp(1 / 2)) = 0.38
    both = said.count("yes") + said.count("not in view")
    assert 0.15 < said.count("not in view") / both < 0.6
    assert held.text != "not in view"
    # the confidence is the model's own, whatever it was drawn with
    for answer in answers:
        if answer.text == "not in view":
            assert answer.confidence == pytest.approx(1 / (1 + math.exp(1)), abs=1e-3)
