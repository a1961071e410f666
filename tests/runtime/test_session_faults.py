"""What happens when things go wrong: late, cancelled, from two threads, or with odd input.

Each has one documented outcome, and the question after it is answered as by a new session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime import Answer, Session
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.errors import ImageError, UsageError
from edge_mm_runtime.runner import Array, Arrays, Runner
from edge_mm_runtime.session import open_graph

FRAME, OTHER = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)
TEXT, NEXT = "find the red cup", "pick the blue bowl"
NEW_TOKENS = 24


class Watched:
    """A runner that does something before each run."""

    def __init__(self, runner: Runner, before: Callable[[], None]) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._runner = runner
        self._before = before

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        self._before()
        return self._runner.run(inputs)

    def close(self) -> None:
        self._runner.close()


class Passes:
    """A session whose n-th pass of a graph since `count` was set to 0 does `at_pass(n)` first."""

    def __init__(self, folder: Path) -> None:
        bundle = load_bundle(folder, verify="size")
        self.count = 0
        self.at_pass: Callable[[int], None] = lambda number: None
        vision, decoder = (
            Watched(open_graph(bundle, part, "cpu", 1), self._before)  # type: ignore[arg-type]
            for part in ("vision", "decoder")
        )
        self.session = Session(bundle, 1, vision=vision, decoder=decoder)

    def _before(self) -> None:
        self.at_pass(self.count)
        self.count += 1

    def start(self, at_pass: Callable[[int], None] = lambda number: None) -> None:
        self.count, self.at_pass = 0, at_pass


@pytest.fixture
def passes(tiny_bundle: Path) -> Iterator[Passes]:
    made = Passes(tiny_bundle)
    with made.session:
        yield made


@pytest.fixture(scope="module")
def expected(tiny_bundle: Path) -> Answer:
    """NEXT about OTHER, of a new session."""
    with Session(tiny_bundle, threads=1) as session:
        return session.ask(OTHER, NEXT, mode="locate", max_new_tokens=NEW_TOKENS)


def well_formed(answer: Answer) -> None:
    assert answer.text == answer.text.strip()
    assert "<" not in answer.text
    for item in answer.objects:
        assert item.box_xyxy
        x1, y1, x2, y2 = item.box_xyxy
        assert 0 <= x1 <= x2 <= 80
        assert 0 <= y1 <= y2 <= 60


def still_right(session: Session, expected: Answer) -> None:
    answer = session.ask(OTHER, NEXT, mode="locate", max_new_tokens=NEW_TOKENS)
    assert (answer.text, answer.finish_reason) == (expected.text, expected.finish_reason)
    assert [item.box_xyxy for item in answer.objects] == [
        item.box_xyxy for item in expected.objects
    ]


@pytest.mark.parametrize("mode", ["auto", "locate"])
@pytest.mark.parametrize("by_event", [True, False])
def test_cancelled_at_every_pass(
    passes: Passes, expected: Answer, mode: str, by_event: bool
) -> None:
    session = passes.session
    passes.start()
    whole = session.ask(FRAME, TEXT, mode=mode, max_new_tokens=NEW_TOKENS)  # type: ignore[arg-type]
    total = passes.count
    assert total > 10
    still_right(session, expected)
    for number in range(total):
        event = threading.Event()
        cancel = event.set if by_event else session.cancel
        passes.start(lambda at, number=number, cancel=cancel: cancel() if at == number else None)
        answer = session.ask(
            FRAME,
            TEXT,
            mode=mode,  # type: ignore[arg-type]
            max_new_tokens=NEW_TOKENS,
            cancel=event,
        )
        well_formed(answer)
        assert passes.count == number + 1  # the pass that was under way was the last one
        if number < total - 1:
            assert (answer.finish_reason, answer.confidence) == ("cancelled", None)
            assert whole.text.startswith(answer.text)
        still_right(session, expected)


def test_cancelled_before_it_began(passes: Passes) -> None:
    event = threading.Event()
    event.set()
    answer = passes.session.ask(FRAME, TEXT, cancel=event)
    assert (answer.text, answer.finish_reason, passes.count) == ("", "cancelled", 0)
    passes.session.cancel()  # nothing is being answered
    assert passes.session.ask(FRAME, TEXT, max_new_tokens=2).finish_reason == "length"


def test_late_at_every_pass(
    passes: Passes, expected: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0

    def a_second(number: int) -> None:
        nonlocal now
        now += 1

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    passes.start(a_second)
    passes.session.ask(FRAME, TEXT, max_new_tokens=NEW_TOKENS)
    total = passes.count
    for number in range(1, total):
        still_right(passes.session, expected)
        passes.start(a_second)
        answer = passes.session.ask(FRAME, TEXT, max_new_tokens=NEW_TOKENS, timeout_s=number - 0.5)
        well_formed(answer)
        assert answer.finish_reason == "timeout"
        assert passes.count == number  # late by no more than the pass that was under way


def test_no_time_at_all(passes: Passes, expected: Answer) -> None:
    answer = passes.session.ask(FRAME, TEXT, timeout_s=0)
    assert (answer.text, answer.objects, answer.found) == ("", (), None)
    assert (answer.finish_reason, passes.count) == ("timeout", 0)
    assert answer.work
    assert (answer.work.decoder_passes, answer.work.looked) == (0, False)
    still_right(passes.session, expected)
    for late in (-0.001, float("nan")):
        with pytest.raises(UsageError, match=r"timeout_s is .*: give 0 or more seconds"):
            passes.session.ask(FRAME, TEXT, timeout_s=late)
    assert passes.session.ask(FRAME, TEXT, timeout_s=float("inf"), max_new_tokens=1).text


def test_a_second_thread_is_refused(passes: Passes, expected: Answer) -> None:
    under_way, go_on = threading.Event(), threading.Event()
    answers: list[Answer] = []

    def wait(number: int) -> None:
        if number == 3:
            under_way.set()
            assert go_on.wait(10)

    def ask() -> None:
        answers.append(passes.session.ask(OTHER, NEXT, mode="locate", max_new_tokens=NEW_TOKENS))

    passes.start(wait)
    thread = threading.Thread(target=ask)
    thread.start()
    assert under_way.wait(10)
    with pytest.raises(UsageError, match=r"answering another question.*a Session for each thread"):
        passes.session.ask(FRAME, TEXT)
    go_on.set()
    thread.join(10)
    [answer] = answers
    assert (answer.text, answer.objects) == (expected.text, expected.objects)
    still_right(passes.session, expected)


def test_many_threads_never_get_a_wrong_answer(tiny_bundle: Path, expected: Answer) -> None:
    refused: list[str] = []
    answers: list[Answer] = []

    def ask(session: Session) -> None:
        for _ in range(4):
            try:
                answers.append(session.ask(OTHER, NEXT, mode="locate", max_new_tokens=NEW_TOKENS))
            except UsageError as error:
                refused.append(str(error))

    with Session(tiny_bundle, threads=1) as session:
        threads = [threading.Thread(target=ask, args=(session,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert len(answers) + len(refused) == 16
    assert answers
    for answer in answers:
        assert (answer.text, answer.objects) == (expected.text, expected.objects)


def test_closed_while_another_thread_asks(tiny_bundle: Path) -> None:
    made = Passes(tiny_bundle)
    under_way = threading.Event()
    answers: list[Answer] = []

    def slow(number: int) -> None:
        under_way.set()
        time.sleep(0.01)

    made.start(slow)
    thread = threading.Thread(target=lambda: answers.append(made.session.ask(FRAME, TEXT)))
    thread.start()
    assert under_way.wait(10)
    made.session.close()
    thread.join(10)
    [answer] = answers
    assert answer.finish_reason == "cancelled"
    with pytest.raises(UsageError, match="this session is closed: open another one"):
        made.session.ask(FRAME, TEXT)
    made.session.close()  # twice is once


def test_frames_of_every_wrong_kind_are_named(passes: Passes, expected: Answer) -> None:
    wrong: list[object] = [
        *(FRAME.astype(dtype) for dtype in ("f2", "f4", "f8", "i1", "u2", "i4", "?", "c8")),
        FRAME.astype(object),
        FRAME.tolist(),
        None,
        "table.jpg",
        FRAME[..., :2],
        FRAME[None],
        FRAME[:0],
    ]
    for frame in wrong:
        with pytest.raises(ImageError):
            passes.session.ask(frame, TEXT)  # type: ignore[arg-type]
    assert passes.count == 0
    still_right(passes.session, expected)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 1), (1, 3000, 3), (4320, 7680, 3)])
def test_frames_of_every_size_are_answered_in_their_pixels(
    spoken_bundle: Callable[..., Path], boxes: np.ndarray, shape: tuple[int, ...]
) -> None:
    height, width = shape[:2]
    with Session(spoken_bundle("<ref>red cup</ref><box>", point_at=6), threads=1) as session:
        [cup] = session.ask(np.zeros(shape, np.uint8), TEXT, mode="locate").objects
    np.testing.assert_allclose(
        cup.box_xyxy, boxes[6, :4] * [width, height, width, height], rtol=1e-6
    )


def test_texts_that_are_refused(passes: Passes, expected: Answer) -> None:
    for text in ("", "   ", "\n\t", "\x00\x01", "\ud800"):
        with pytest.raises(UsageError, match="the text is empty: say what to look for"):
            passes.session.ask(FRAME, text)
    for text in ("a" * 100_000, "cup " * 25_000, "<none>" * 20_000):
        with pytest.raises(UsageError, match=r"the text has \d+ characters, at most 2000"):
            passes.session.ask(FRAME, text)
    with pytest.raises(UsageError, match="the text is too long"):
        passes.session.ask(FRAME, "杯子" * 200)
    assert passes.count == 0
    still_right(passes.session, expected)


@pytest.mark.parametrize(
    "text",
    [
        "найди красную чашку",
        "找到红色的杯子",
        "اعثر على الكوب الأحمر",
        "लाल कप",
        "🥤🔴 👩‍🚀?",
        "<loc999><box><|im_end|><image>",
        "cup\u202e\ufeff\u0000 \ud83d cup",
        "{{ image }} {% raw %}",
        "'; DROP TABLE cups; --",
    ],
)
def test_words_of_every_script_are_read(passes: Passes, expected: Answer, text: str) -> None:
    answer = passes.session.ask(FRAME, text, mode="locate", max_new_tokens=NEW_TOKENS)
    well_formed(answer)
    assert answer.work
    assert answer.work.prompt_tokens > 18  # of which <bos>, the picture, <user> and <assistant>
    still_right(passes.session, expected)
