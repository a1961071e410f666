"""The decode loop with a decoder that only counts: what it asks for, and how often."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import llguidance
import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_mm_runtime.answer import FinishReason
from edge_mm_runtime.bundle import DecoderGeometry
from edge_mm_runtime.decoder import Decoder, Position
from edge_mm_runtime.generate import (
    Generation,
    Interrupted,
    generate,
    generate_partly,
    never,
)
from edge_mm_runtime.grammar import GrammarConstraint
from edge_mm_runtime.runner import Array, Arrays, TensorSpec

SIZE, STOP, POINTER = 32, 0, 9
VOCAB = 448  # of the tokenizer


class Successor:
    """A Runner whose likeliest next id is the last one + 1; keeps what it was fed."""

    def __init__(self, size: int = SIZE) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.fed: list[list[int]] = []
        self.size = size

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        ids = inputs["input_ids"][0].tolist()
        self.fed.append(ids)
        assert inputs["seqlens_k"][0] + 1 == inputs["total_sequence_length"][0]
        logits = np.zeros((1, self.size), np.float32)
        logits[0, (ids[-1] + 1) % self.size] = 5.0
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
    interrupted: Interrupted = never,
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
        interrupted=interrupted,
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


def test_interrupted_at_once_it_asks_nothing() -> None:
    made, fed, _ = run([1, 2], {}, interrupted=lambda: "timeout")
    assert (made.ids, made.finish_reason, fed) == ([], "timeout", [])


@pytest.mark.parametrize("passes", range(1, 6))
def test_no_pass_is_begun_after_an_interruption(passes: int) -> None:
    asked = 0

    def interrupted() -> FinishReason | None:
        nonlocal asked
        asked += 1
        return "cancelled" if asked > passes else None

    # the pass at which it points is asked about like the others
    made, fed, _ = run([1, 2], {4: [POINTER]}, interrupted=interrupted)
    whole, _, _ = run([1, 2], {4: [POINTER]})
    assert (made.finish_reason, len(fed)) == ("cancelled", passes)
    assert made.ids
    assert made.ids == whole.ids[: len(made.ids)]


def test_the_mask_is_asked_once_an_id() -> None:
    class Counted(Rules):
        masks = 0

        def allowed(self) -> np.ndarray:
            self.masks += 1
            return super().allowed()

        def accept(self, token: int) -> None:
            self.last = token

    constraint = Counted({})
    made = generate(
        Decoder(Successor(), DecoderGeometry(0, 1, 8, 64, SIZE, 4)),
        [1, 2],
        constraint=constraint,
        guide=Greedy(),
        stop_ids=[6],
        max_new_tokens=50,
    )
    assert (made.ids, constraint.masks) == ([3, 4, 5], 4)


def test_it_tells_what_it_has_before_each_pass() -> None:
    decoder = Decoder(Successor(), DecoderGeometry(0, 1, 8, 64, SIZE, 4))
    after = {4: [POINTER], 23: [STOP]}
    told = [
        (made.ids, made.finish_reason)
        for made in generate_partly(
            decoder,
            [1, 2],
            constraint=Rules(after),
            guide=Greedy(),
            stop_ids=[STOP],
            max_new_tokens=50,
        )
    ]
    whole = [3, 4, POINTER, 20, 21, 22, 23]
    assert told == [
        ([3], "partial"),
        (whole[:6], "partial"),  # a place is one piece
        (whole, "stop"),
    ]


class OneByOne:
    """A constraint that is asked for each id alone; counts the masks."""

    def __init__(self, constraint: GrammarConstraint) -> None:
        self.accept = constraint.accept
        self.masks = 0
        self._constraint = constraint

    def allowed(self) -> np.ndarray:
        self.masks += 1
        return self._constraint.allowed()


class Ahead(OneByOne):
    """The same that tells what it knows ahead."""

    def forced(self) -> list[int]:
        return self._constraint.forced()


def test_fast_forward_misses_nothing_and_spares_masks(tokenizer: Tokenizer) -> None:
    # llguidance leaves one id, the tokenizer's own, wherever the text can only go on in one way.
    stop = tokenizer.token_to_id("<eos>")
    known = llguidance.LLTokenizer(
        tokenizer.to_str(), n_vocab=tokenizer.get_vocab_size(), eos_token=[stop], slices=[]
    )
    grammar = llguidance.LLMatcher.grammar_from_lark(
        'start: "find the red cup " NUMBER " left of blue bowl"\nNUMBER: /[0-9]{1,3}/'
    )

    def ask(kind: type[OneByOne]) -> tuple[list[int], list[list[int]], int]:
        constraint = kind(GrammarConstraint(llguidance.LLMatcher(known, grammar), VOCAB))
        runner = Successor(VOCAB)
        made = generate(
            Decoder(runner, DecoderGeometry(0, 1, 8, 200, VOCAB, 4)),
            [1, 2],
            constraint=constraint,
            guide=Greedy(),
            stop_ids=[stop],
            max_new_tokens=150,
        )
        assert made.finish_reason == "stop"
        return made.ids, runner.fed, constraint.masks

    ids, fed, many = ask(OneByOne)
    assert re.fullmatch(r"find the red cup \d+ left of blue bowl", tokenizer.decode(ids))
    fast_ids, fast_fed, few = ask(Ahead)
    assert (fast_ids, fast_fed) == (ids, fed)
    assert len(fed) < len(ids) / 2
    assert few < many / 1.5, (few, many)
