"""What an answer costs, counted at the engines: the cache, frames in turn, an engine that fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_mm_runtime import Answer, Session
from edge_mm_runtime.answer import Work
from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.runner import Array, Arrays, Runner
from edge_mm_runtime.session import open_graph

ONE, OTHER = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)
IMAGE_TOKENS = 16


class Counting:
    """A runner that keeps the shape of what it is given, and fails when told to."""

    def __init__(self, runner: Runner) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self.runner = runner
        self.given: list[tuple[int, ...]] = []
        self.fails = False

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        if self.fails:
            raise RuntimeError("out of memory")
        self.given.append(next(iter(inputs.values())).shape)
        return self.runner.run(inputs)

    def close(self) -> None:
        self.runner.close()


class Engines:
    """A session on counted runners."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder, verify="size")
        self.vision = Counting(open_graph(bundle, "vision", "cpu", 1))
        self.decoder = Counting(open_graph(bundle, "decoder", "cpu", 1))
        self.session = Session(bundle, 1, vision=self.vision, decoder=self.decoder)

    def ask(self, frame: np.ndarray, text: str) -> tuple[Answer, Work]:
        """An answer, its `work` being what the runners saw."""
        self.vision.given.clear()
        self.decoder.given.clear()
        answer = self.session.ask(frame, text, mode="locate", max_new_tokens=20)
        assert answer.work
        assert answer.work.looked == bool(self.vision.given)
        assert answer.work.decoder_passes == len(self.decoder.given)
        assert answer.work.prefilled_tokens == self.decoder.given[0][1]
        return answer, answer.work


@pytest.fixture
def engines(tiny_bundle: Path) -> Iterator[Engines]:
    made = Engines(tiny_bundle)
    with made.session:
        yield made


def test_a_second_question_costs_its_own_words(engines: Engines, tokenizer: Tokenizer) -> None:
    def length(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    _, first = engines.ask(ONE, "find the red cup")
    prompt = 1 + IMAGE_TOKENS + length("<user>find the red cup<assistant>")
    assert (first.prompt_tokens, first.prefilled_tokens) == (prompt, prompt)
    assert (first.looked, first.similar) == (True, False)
    # <bos>, the picture and <user> are there
    _, second = engines.ask(ONE, "pick blue bowl")
    assert second.prefilled_tokens == length("pick blue bowl<assistant>")
    assert second.prompt_tokens == 1 + IMAGE_TOKENS + 1 + second.prefilled_tokens
    assert not second.looked
    _, third = engines.ask(ONE, "pick blue bowl")
    assert third.prefilled_tokens == 1  # for the logits of the last one


def test_a_first_id_that_is_read_alone_is_read_once(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    graphs = msgspec.structs.replace(bundle.manifest.graphs["cpu"], first_alone=True)
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"cpu": graphs})
    decoder = Counting(open_graph(bundle, "decoder", "cpu", 1))
    with Session(Bundle(bundle.folder, manifest), 1, decoder=decoder) as session:
        for frame in (ONE, OTHER):
            work = session.ask(frame, "find the red cup", max_new_tokens=1).work
            assert work
            assert work.prefilled_tokens == work.prompt_tokens - 1
    answered = [work.prefilled_tokens, 1]  # the prompt, and the one new id
    assert [shape[1] for shape in decoder.given] == [1, *answered, *answered]


def test_a_first_id_that_looks_at_the_picture_is_read_with_each(tiny_bundle: Path) -> None:
    """As in a decoder with cross-attention, whose prompts hold no id of the picture."""
    bundle = load_bundle(tiny_bundle, verify="size")
    graphs = msgspec.structs.replace(bundle.manifest.graphs["cpu"], first_alone=True)
    prompt = msgspec.structs.replace(
        bundle.manifest.prompt, template="<bos><user>{{ text }}<assistant>"
    )
    manifest = msgspec.structs.replace(bundle.manifest, graphs={"cpu": graphs}, prompt=prompt)
    with Session(Bundle(bundle.folder, manifest), 1) as session:
        for frame in (ONE, OTHER):
            work = session.ask(frame, "find the red cup", max_new_tokens=1).work
            assert work
            assert work.prefilled_tokens == work.prompt_tokens


def test_frames_in_turn_are_looked_at_each_time(engines: Engines, tiny_bundle: Path) -> None:
    answers = []
    for frame in (ONE, OTHER, ONE, OTHER):
        answer, work = engines.ask(frame, "find the red cup")
        assert work.looked
        answers.append(answer)
        assert work.prefilled_tokens == work.prompt_tokens - (len(answers) > 1)  # <bos>
    for frame, one, other in ((ONE, 0, 2), (OTHER, 1, 3)):
        with Session(tiny_bundle, threads=1) as fresh:
            alone = fresh.ask(frame, "find the red cup", mode="locate", max_new_tokens=20)
        for answer in (answers[one], answers[other]):
            assert _said(answer) == _said(alone)


def test_a_failing_vision_graph_leaves_the_session_usable(engines: Engines) -> None:
    expected, _ = engines.ask(ONE, "find the red cup")
    engines.vision.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        engines.ask(OTHER, "find the red cup")
    engines.vision.fails = False
    again, work = engines.ask(ONE, "find the red cup")
    assert _said(again) == _said(expected)
    assert work.looked  # what is left of a run that failed is not trusted


def test_a_failing_decoder_leaves_the_session_usable(engines: Engines) -> None:
    expected, _ = engines.ask(ONE, "find the red cup")
    run = engines.decoder.runner.run
    for passes in range(3):
        left = passes

        def fail(inputs: Mapping[str, Array]) -> Arrays:
            nonlocal left
            if left == 0:
                raise RuntimeError("out of memory")
            left -= 1
            return run(inputs)

        engines.decoder.runner.run = fail  # type: ignore[method-assign]
        with pytest.raises(RuntimeError, match="out of memory"):
            engines.ask(OTHER, "find the blue bowl")
        engines.decoder.runner.run = run  # type: ignore[method-assign]
        again, _ = engines.ask(ONE, "find the red cup")
        assert _said(again) == _said(expected)


def _said(answer: Answer) -> tuple[object, ...]:
    return answer.text, answer.finish_reason, [item.box_xyxy for item in answer.objects]
