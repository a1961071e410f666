"""The decode loop with a decoder that only counts: what it asks for, and how often."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from edge_mm_runtime.bundle import DecoderGeometry
from edge_mm_runtime.decoder import Decoder, Position
from edge_mm_runtime.generate import Generation, generate
from edge_mm_runtime.runner import Array, Arrays, TensorSpec

SIZE, STOP, POINTER = 32, 0, 9


class Successor:
    """A Runner whose likeliest next id is the last one + 1; keeps what it was fed."""

    def __init__(self) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.fed: list[list[int]] = []

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        ids = inputs["input_ids"][0].tolist()
        self.fed.append(ids)
        assert inputs["seqlens_k"][0] + 1 == inputs["total_sequence_length"][0]
        logits = np.zeros((1, SIZE), np.float32)
        logits[0, (ids[-1] + 1) % SIZE] = 5.0
        return {"logits": logits, "region_query": np.full((1, 2), ids[-1], np.float32)}

    def close(self) -> None:
        pass


class Rules:
    """Everything is allowed, except where a list says what follows an id."""

    def __init__(self, after: dict[int, list[int]]) -> None:
        self.after = after
        self.last = -1

    def allowed(self) -> np.ndarray:
        mask = np.ones(SIZE, bool)
        if self.last in self.after:
            mask[:] = False
            mask[self.after[self.last]] = True
        return mask

    def accept(self, token: int) -> None:
        assert self.allowed()[token]
        self.last = token


class Greedy:
    """Points after POINTER with three ids."""

    def __init__(self) -> None:
        self.queries: list[float] = []

    def choose(self, logits: np.ndarray, index: int) -> int:
        return int(logits.argmax())

    def points_after(self, token: int) -> bool:
        return token == POINTER

    def point(self, token: int, position: Position) -> Sequence[int]:
        assert position.region_query is not None
        self.queries.append(float(position.region_query[0]))
        return [20, 21, 22]


def run(
    prompt: list[int],
    after: dict[int, list[int]],
    max_new_tokens: int = 50,
    context: int = 64,
    deadline_s: float | None = None,
) -> tuple[Generation, list[list[int]], Greedy]:
    runner, guide = Successor(), Greedy()
    decoder = Decoder(runner, DecoderGeometry(0, 1, 8, context, SIZE, 4))
    made = generate(
        decoder,
        prompt,
        constraint=Rules(after),
        guide=guide,
        stop_ids=[STOP],
        max_new_tokens=max_new_tokens,
        deadline_s=deadline_s,
    )
    return made, runner.fed, guide


def test_a_choice_costs_one_pass() -> None:
    made, fed, _ = run([1, 2], {5: [STOP]})
    assert (made.ids, made.finish_reason) == ([3, 4, 5], "stop")
    # that nothing but the stop id may follow 5 is known without asking the decoder
    assert fed == [[1, 2], [3], [4]]


def test_ids_without_an_alternative_go_along() -> None:
    made, fed, _ = run([1, 2], {3: [7], 7: [8], 14: [STOP]}, max_new_tokens=4)
    assert made.ids[:3] == [3, 7, 8]
    assert fed[:2] == [[1, 2], [3, 7, 8]]


def test_forced_ids_are_one_pass_after_the_pointer() -> None:
    made, fed, guide = run([1, 2], {3: [POINTER], 23: [STOP]})
    assert (made.ids, made.finish_reason) == ([3, POINTER, 20, 21, 22, 23], "stop")
    assert fed == [[1, 2], [3, POINTER], [20, 21, 22]]
    assert guide.queries == [POINTER]  # the query of the pointer's own position


def test_the_mask_overrules_the_logits() -> None:
    made, _, _ = run([1, 2], {-1: [15, 16], 15: [STOP], 16: [STOP]})
    assert made.ids == [15]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_it_ends_at_max_new_tokens(most: int) -> None:
    made, _, _ = run([1, 2], {}, max_new_tokens=most)
    assert (len(made.ids), made.finish_reason) == (most, "length")


@pytest.mark.parametrize("context", range(2, 12))
def test_it_ends_at_the_end_of_the_context(context: int) -> None:
    made, fed, _ = run([1, 2], {}, context=context)
    assert made.finish_reason == "length"
    assert sum(map(len, fed)) <= context


def test_a_deadline_in_the_past_asks_nothing() -> None:
    made, fed, _ = run([1, 2], {}, deadline_s=time.perf_counter() - 1)
    assert (made.ids, made.finish_reason, fed) == ([], "timeout", [])


def test_a_deadline_is_looked_at_before_every_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    made, _, _ = run([1, 2], {}, deadline_s=6.0)
    assert made.finish_reason == "timeout"
    assert 0 < len(made.ids) < 6
