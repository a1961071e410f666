"""Answers as they grow."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_mm_runtime import Answer, Session
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.errors import ImageError, UsageError
from edge_mm_runtime.runner import Array, Arrays, TensorSpec

FRAME = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
VOCAB, KEY = 448, 8


class Script:
    """A decoder runner that says what it is told to, id after id."""

    def __init__(self, tokenizer: Tokenizer, says: str) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs = {"region_query": TensorSpec(np.float32, (1, KEY))}
        self.says = tokenizer.encode(f"{says}<eos>", add_special_tokens=False).ids
        self.start = tokenizer.token_to_id("<assistant>")
        self.ids: list[int] = []
        self.passes = 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        self.passes += 1
        new = inputs["input_ids"][0].tolist()
        self.ids[int(inputs["total_sequence_length"][0]) - len(new) :] = new
        said = self.ids[self.ids.index(self.start) + 1 :]
        # a place is said in the head's own numbers: go on after the same number of ids
        logits = np.zeros((1, VOCAB), np.float32)
        logits[0, self.says[len(said)]] = 30
        return {"logits": logits, "region_query": np.ones((1, KEY), np.float32)}

    def close(self) -> None:
        pass


def stream(folder: Path, script: Script, **options: object) -> list[Answer]:
    with Session(load_bundle(folder, verify="size"), 1, decoder=script) as session:
        told = list(session.stream(FRAME, "find the cups", **options))  # type: ignore[arg-type]
        asked = session.ask(FRAME, "find the cups", **options)  # type: ignore[arg-type]
    last = told[-1]
    assert (last.text, last.objects, last.finish_reason) == (
        asked.text,
        asked.objects,
        asked.finish_reason,
    )
    assert [answer.finish_reason for answer in told[:-1]] == ["partial"] * (len(told) - 1)
    return told


BOX = "<box><loc001><loc002><loc003><loc004></box>"


def test_objects_appear_as_they_are_complete(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    script = Script(tokenizer, f"<ref>red cup</ref>{BOX}<ref>blue bowl</ref>{BOX}")
    told = stream(tiny_bundle, script, mode="locate")
    counts = [len(answer.objects) for answer in told]
    assert counts == sorted(counts)
    assert {0, 1, 2} <= set(counts)
    first = told[counts.index(1)]
    assert (first.text, first.found, first.finish_reason) == ("red cup", True, "partial")
    assert first.objects == told[-1].objects[:1]
    assert first.work
    assert told[-1].work
    assert first.work.decoder_passes < told[-1].work.decoder_passes
    # each tells more than the one before it
    assert all(
        (one.text, one.objects) != (other.text, other.objects)
        for one, other in itertools.pairwise(told[:-1])
    )
    assert told[-1].text == "red cup, blue bowl"


def test_steps_appear_as_they_are_complete(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    script = Script(
        tokenizer, f"pick <ref>red cup</ref>{BOX}; place left of <ref>blue bowl</ref>{BOX}"
    )
    told = stream(tiny_bundle, script, mode="steps")
    counts = [len(answer.steps) for answer in told]
    assert counts == sorted(counts)
    assert {0, 1, 2} <= set(counts)
    assert told[-1].text == "pick red cup; place left of blue bowl"


def test_a_character_is_told_when_it_is_whole(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    words = "ja, ein Gefäß 杯子 🥤"
    told = stream(tiny_bundle, Script(tokenizer, words), mode="answer")
    assert told[-1].text == words
    assert len(told) > 5
    for answer in told:
        assert words.startswith(answer.text)


def test_a_cut_answer_has_no_half_character(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    words = "🥤"
    bytes_of = len(tokenizer.encode(words).ids)
    assert bytes_of > 1
    with Session(tiny_bundle, 1, decoder=Script(tokenizer, words)) as session:
        answer = session.ask(FRAME, "say", mode="answer", max_new_tokens=bytes_of - 1)
    assert (answer.text, answer.finish_reason) == ("", "length")


def test_a_stream_holds_the_session_until_its_end(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    script = Script(tokenizer, f"<ref>red cup</ref>{BOX}<ref>blue bowl</ref>{BOX}")
    with Session(tiny_bundle, 1, decoder=script) as session:
        told = session.stream(FRAME, "find the cups", mode="locate")
        assert script.passes == 0  # it begins when it is read
        next(told)
        with pytest.raises(UsageError, match="read or close its stream"):
            session.ask(FRAME, "find the red cup")
        told.close()
        assert len(session.ask(FRAME, "find the cups", mode="locate").objects) == 2
        for _ in session.stream(FRAME, "find the cups", mode="locate"):
            break  # dropped
        told = session.stream(FRAME, "find the cups", mode="locate")
        while next(told).finish_reason == "partial":
            pass
        assert len(session.ask(FRAME, "find the cups", mode="locate").objects) == 2


def test_cancel_and_close_end_a_stream(tiny_bundle: Path, tokenizer: Tokenizer) -> None:
    script = Script(tokenizer, f"<ref>red cup</ref>{BOX}<ref>blue bowl</ref>{BOX}")
    for end in ("cancel", "close"):
        session = Session(tiny_bundle, 1, decoder=script)
        told = session.stream(FRAME, "find the cups", mode="locate")
        assert next(told).finish_reason == "partial"
        passes = script.passes
        getattr(session, end)()
        [last] = told
        assert (last.finish_reason, script.passes) == ("cancelled", passes)
        session.close()


def test_mistakes_are_told(tiny_bundle: Path) -> None:
    with Session(tiny_bundle, threads=1) as session:
        with pytest.raises(UsageError, match="max_new_tokens is 0"):
            session.stream(FRAME, "find", max_new_tokens=0)
        with pytest.raises(ImageError, match="dtype uint8"):
            next(session.stream(FRAME.astype(float), "find"))  # type: ignore[arg-type]
        assert session.ask(FRAME, "find", max_new_tokens=1).finish_reason == "length"
