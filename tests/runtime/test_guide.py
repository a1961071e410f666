"""The confidence of words, against the product of the probabilities worked out from all logits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from edge_mm_runtime.bundle import Confidence, DecoderGeometry, Grounding
from edge_mm_runtime.decoder import Decoder
from edge_mm_runtime.generate import Generation, generate
from edge_mm_runtime.guide import GroundingGuide
from edge_mm_runtime.runner import Array, Arrays, TensorSpec
from edge_mm_runtime.vocabulary import Tags, Vocabulary

SIZE, PROMPT = 32, 31
STOP = (0, 1)
REF, NONE = 16, 22
TAGS = Tags(REF, 17, 18, 19, 20, 21, NONE)
WORDS = Vocabulary(SIZE, 15, STOP, (23, 24, 25, 26), TAGS)


class Table:
    """A Runner whose logits depend on the last id only."""

    def __init__(self, logits: np.ndarray) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.logits = logits
        self.passes = 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        self.passes += 1
        return {"logits": self.logits[inputs["input_ids"][:, -1]]}

    def close(self) -> None:
        pass


class Rules:
    """What may follow an id, the prompt being PROMPT."""

    def __init__(self, after: dict[int, list[int]]) -> None:
        self.after = after
        self.last = PROMPT

    def allowed(self) -> np.ndarray:
        return np.isin(np.arange(SIZE), self.after[self.last])

    def accept(self, token: int) -> None:
        self.last = token


def answer(
    logits: np.ndarray, after: dict[int, list[int]], grounding: Grounding | None = None
) -> tuple[Generation, float, int]:
    runner = Table(logits.astype(np.float32))
    guide = GroundingGuide(WORDS, grounding or Grounding("edge_mm", 4, "tokens"), None)
    made = generate(
        Decoder(runner, DecoderGeometry(0, 1, 8, 64, SIZE, 4)),
        [PROMPT],
        constraint=Rules(after),
        guide=guide,
        stop_ids=STOP,
        max_new_tokens=40,
    )
    return made, guide.answer_confidence(), runner.passes


def rows(**values: float) -> np.ndarray:
    """Logits [SIZE,SIZE] of zeros but for `_LAST_NEXT=value`."""
    table = np.zeros((SIZE, SIZE))
    for name, value in values.items():
        last, following = map(int, name.strip("_").split("_"))
        table[last, following] = value
    return table


def test_without_a_choice_it_is_sure() -> None:
    rng = np.random.default_rng(0)
    made, sure, passes = answer(
        rng.normal(size=(SIZE, SIZE)), {PROMPT: [5], 5: [6], 6: [7], 7: [0]}
    )
    assert (made.ids, sure, passes) == ([5, 6, 7], 1.0, 1)


def test_a_two_way_split_is_its_softmax() -> None:
    # what is not allowed counts nothing, however likely
    _, sure, _ = answer(rows(_31_5=1.5, _31_9=50.0), {PROMPT: [5, 6], 5: [0], 6: [0]})
    assert sure == pytest.approx(1 / (1 + math.exp(-1.5)), rel=1e-6)


def test_the_end_is_a_choice_and_all_its_ids_are_one() -> None:
    table = rows(_31_5=9.0, _5_0=2.0, _5_1=1.0)
    made, sure, _ = answer(table, {PROMPT: [5], 5: [0, 1, 6], 6: [0]})
    ends = math.exp(2) + math.exp(1)
    assert made.ids == [5]
    assert sure == pytest.approx(ends / (ends + 1), rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_probability_of_the_whole_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(SIZE, SIZE)).astype(np.float32)
    # Up the ids, so that it ends: 2..14, then only the stop id 0; many rows have one way to go.
    after = {
        last: sorted({*rng.integers(last + 1, 15, rng.integers(1, 4)).tolist()})
        for last in range(2, 14)
    }
    after |= {14: [0], PROMPT: [2, 3, 4]}
    after[9].append(0)
    made, sure, _ = answer(table, after)
    expected, last = 1.0, PROMPT
    for token in [*made.ids, 0]:
        weights = {one: math.exp(float(table[last, one])) for one in after[last]}
        expected *= weights[token] / sum(weights.values())
        last = token
    assert made.finish_reason == "stop"
    assert 0 < expected < 1
    assert sure == pytest.approx(expected, rel=1e-5)


def test_absence_that_the_threshold_decided_is_as_likely_as_it_was() -> None:
    after = {PROMPT: [REF, NONE], NONE: [0]}
    grounding = Grounding("edge_mm", 4, "tokens", existence_threshold=0.95)
    made, sure, _ = answer(rows(_31_16=2.0), after, grounding)
    assert made.ids == [NONE]
    assert sure == pytest.approx(1 / (1 + math.exp(2)), rel=1e-6)


def test_words_have_their_own_temperature() -> None:
    def calibrated(scaling: Confidence | None) -> float:
        grounding = Grounding("edge_mm", 4, "tokens", confidence=scaling)
        return answer(rows(_31_5=3.0), {PROMPT: [5, 6], 5: [0]}, grounding)[1]

    assert calibrated(Confidence(2.0)) == calibrated(None)
    # of two ways, so its logit is 3
    assert calibrated(Confidence(9.0, 2.0)) == pytest.approx(1 / (1 + math.exp(-1.5)), rel=1e-6)
