"""Watching streams: with stand-ins whose pace is known, and with a real source and session."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_mm_runtime import Session
from edge_mm_runtime import watch as watch_module
from edge_mm_runtime.answer import Answer, GroundedObject, Step
from edge_mm_runtime.errors import SourceError, UsageError
from edge_mm_runtime.image import write_image
from edge_mm_runtime.sources import Grab, open_source
from edge_mm_runtime.sources import reader as reader_module
from edge_mm_runtime.watch import Look, Pace, watch

RNG = np.random.default_rng(2)
FRAME_S = 0.1


def drawn(number: int) -> np.ndarray:
    """A textured square that goes right by two pixels a frame."""
    frame = np.full((120, 160, 3), 90, np.uint8)
    x = 20 + 2 * number
    frame[40:80, x : x + 40] = TEXTURE[:, : 160 - x]
    return frame


TEXTURE = np.kron(RNG.integers(0, 255, (10, 10, 3), np.uint8), np.ones((4, 4, 1), np.uint8))


def box(number: int) -> tuple[float, float, float, float]:
    x = 20.0 + 2 * number
    return (x, 40.0, min(160.0, x + 40), 80.0)


def located(number: int, **changes: object) -> Answer:
    cup = GroundedObject("cup", box(number), None, 0.9)
    return msgspec.structs.replace(Answer("cup", (cup,), True, (), "stop", {}), **changes)


ABSENT = Answer("not in view", (), False, (), "stop", {}, confidence=0.8)
WORDS = Answer("two cups", (), None, (), "stop", {}, confidence=0.7)


class Frames:
    """A stand-in source; `before(number)` runs before each frame is given."""

    def __init__(
        self, count: int, live: bool, before: Callable[[int], None] = lambda number: None
    ) -> None:
        self.live = live
        self._count, self._before = count, before

    def __iter__(self) -> Iterator[Grab]:
        for number in range(self._count):
            self._before(number)
            at = time.monotonic() if self.live else number * FRAME_S
            yield Grab(drawn(number), at, number)


class Model:
    """A stand-in session: answers by the frame's id; live, when the test lets it."""

    def __init__(self, answer: Callable[[int], Answer], held: bool = False) -> None:
        self._answer, self._held = answer, held
        self.asked: list[dict] = []
        self.threads: set[str] = set()
        self.go = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.done = threading.Semaphore(0)
        self.cancelled = False

    def ask(self, frame, text, *, cancel=None, **options) -> Answer:  # type: ignore[no-untyped-def]
        self.asked.append({"text": text, **options})
        self.threads.add(threading.current_thread().name)
        self.began.release()
        if self._held:
            while not self.go.acquire(timeout=0.01):
                if cancel.is_set():
                    self.cancelled = True
                    return msgspec.structs.replace(ABSENT, finish_reason="cancelled")
        answer = self._answer(options["frame_id"])
        self.done.release()
        return msgspec.structs.replace(
            answer, frame_id=options["frame_id"], timestamp_s=options.get("timestamp_s", 1e9)
        )


class Gate:
    """Holds a live source before some frames, until the test has seen what comes before.

    Frame k is read only after frame k - 1 was seen: what happens before it, `then`, is between.
    """

    def __init__(self, then: Callable[[], None], *numbers: int) -> None:
        self._then, self._numbers = then, numbers
        self._open = threading.Semaphore(0)

    def __call__(self, number: int) -> None:
        if number in self._numbers:
            self._then()
            assert self._open.acquire(timeout=30)

    def open(self) -> None:
        self._open.release()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "LAST_ANSWER_S", 0.1)


def shown(look: Look) -> np.ndarray:
    [item] = look.answer.objects
    return np.array(item.box_xyxy)


def test_a_file_is_asked_about_in_its_own_time_and_tracked_between() -> None:
    model = Model(located)
    looks = list(watch(Frames(10, live=False), "find the cup", model, answer_every_s=0.35))
    assert [item["frame_id"] for item in model.asked] == [0, 4, 8]
    assert model.asked[0] == {
        "text": "find the cup",
        "mode": "locate",
        "timeout_s": None,
        "frame_id": 0,
    }
    assert [look.fresh for look in looks] == [number in (0, 4, 8) for number in range(10)]
    assert [look.answer.age_s for look in looks] == pytest.approx(
        [0.1 * (number % 4) for number in range(10)]
    )
    for number, look in enumerate(looks):
        assert look.grab.frame_id == number and look.answer.frame_id == number - number % 4
        assert (look.answer.found, look.answer.text, look.lost) == (True, "cup", ())
        assert look.answer.objects[0].track_id == 1
        np.testing.assert_allclose(shown(look), box(number), atol=0.6)


def test_a_file_gives_the_same_looks_twice() -> None:
    first, second = (
        [look.answer for look in watch(Frames(8, live=False), "x", Model(located))]
        for _ in range(2)
    )
    assert first == second and len(first) == 8


def test_pictures_have_no_time_and_are_all_asked_about() -> None:
    class Pictures(Frames):
        def __iter__(self) -> Iterator[Grab]:
            for grab in super().__iter__():
                yield grab._replace(timestamp_s=None)

    model = Model(located)
    looks = list(watch(Pictures(3, live=False), "x", model, answer_every_s=5))
    assert len(model.asked) == 3
    assert [look.answer.age_s for look in looks] == [None] * 3


def test_words_pass_as_they_are_with_their_age() -> None:
    looks = list(watch(Frames(3, live=False), "x", Model(lambda _: WORDS), answer_every_s=1))
    assert [look.answer.text for look in looks] == ["two cups"] * 3
    assert looks[2].answer.age_s == pytest.approx(0.2)
    assert looks[2].answer.found is None and looks[2].answer.confidence == 0.7


def test_absence_and_loss() -> None:
    def answer(number: int) -> Answer:
        return located(number) if number < 2 else ABSENT

    looks = list(watch(Frames(5, live=False), "x", Model(answer)))
    assert [look.answer.found for look in looks] == [True, True, True, False, False]
    assert [look.lost for look in looks] == [(), (), (), (1,), ()]
    assert [look.answer.text for look in looks[2:4]] == ["cup", "not in view"]
    assert [look.answer.confidence for look in looks[2:4]] == [None, 0.8]


def test_an_uncertain_thing_is_neither_shown_nor_absent() -> None:
    class Vanishing(Frames):
        def __iter__(self) -> Iterator[Grab]:
            for grab in super().__iter__():
                gone = np.full((120, 160, 3), 90, np.uint8)
                yield grab if grab.frame_id < 2 else grab._replace(frame=gone)

    looks = list(watch(Vanishing(4, live=False), "x", Model(located), answer_every_s=5))
    assert [look.answer.found for look in looks] == [True, True, None, None]
    assert looks[2].uncertain == (1,) and looks[2].answer.objects == ()
    assert looks[2].answer.text == "lost from sight"


def test_steps_move_with_their_objects() -> None:
    def answer(number: int) -> Answer:
        [cup] = located(number).objects
        place = GroundedObject("table", (0.0, 90.0, 60.0, 120.0), None, 0.5)
        objects = (place, cup)
        steps = (Step("point to", None, place), Step("pick", None, cup))
        return Answer("point to table; pick cup", objects, True, steps, "stop", {})

    looks = list(watch(Frames(6, live=False), "x", Model(answer), mode="steps", answer_every_s=9))
    last = looks[-1].answer
    assert last.text == "point to table; pick cup"
    assert [step.action for step in last.steps] == ["point to", "pick"]
    np.testing.assert_allclose(last.steps[1].object.box_xyxy, box(5), atol=1.0)
    assert last.objects == tuple(
        step.object for step in last.steps if step.object.track_id not in looks[-1].uncertain
    )


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However old the newest frame is, it is asked about."""
    monkeypatch.setattr(watch_module, "WORTH_ASKING", math.inf)


@pytest.fixture
def next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a frame that just came is asked about."""
    monkeypatch.setattr(watch_module, "WORTH_ASKING", 1e-9)


@pytest.mark.usefixtures("impatient", "at_once")
def test_live_answers_are_told_between_frames_and_the_next_question_is_asked_at_once() -> None:
    model = Model(located, held=True)
    gate = Gate(model.go.release, 6, 12)
    looks = watch(Frames(14, True, gate), "x", model)
    first = next(looks)  # frame 6 is held back: this look needs no frame
    assert (first.grab.frame_id, first.fresh, first.answer.frame_id) == (5, True, 0)
    for _ in range(2):
        assert model.began.acquire(timeout=30)
    assert [item["frame_id"] for item in model.asked] == [0, 5]
    gate.open()
    between = [next(looks) for _ in range(6, 12)]
    assert [(look.grab.frame_id, look.fresh) for look in between] == [
        (number, False) for number in range(6, 12)
    ]
    second = next(looks)
    assert second.grab is between[-1].grab
    assert [look.again for look in (first, *between, second)] == [False] * 7 + [True]
    assert (second.grab.frame_id, second.fresh, second.answer.frame_id) == (11, True, 5)
    gate.open()
    rest = list(looks)
    assert [look.grab.frame_id for look in rest] == [12, 13]
    assert [item["frame_id"] for item in model.asked] == [0, 5, 11]
    for look in (first, *between, second, *rest):
        # Marked was the frame that was asked about: each answer's box lands where the thing is.
        np.testing.assert_allclose(shown(look), box(look.grab.frame_id), atol=1.0)
        asked = model.asked[0 if look.answer.frame_id == 0 else 1]
        assert look.answer.timestamp_s == asked["timestamp_s"]
        assert 0 < look.answer.age_s < time.monotonic() - asked["timestamp_s"]
    assert model.threads == {"edge_mm watch_0"}


@pytest.mark.usefixtures("impatient", "next_one")
def test_an_old_frame_is_not_asked_about_when_the_next_one_is_near() -> None:
    model = Model(located, held=True)
    gate = Gate(model.go.release, 3)
    looks = watch(Frames(5, True, gate), "x", model)
    assert next(looks).grab.frame_id == 2
    gate.open()
    assert [look.grab.frame_id for look in looks] == [3, 4]
    assert [item["frame_id"] for item in model.asked] == [0, 3]


@pytest.mark.usefixtures("impatient", "at_once")
def test_a_frame_is_asked_about_once_however_fast_the_model_is() -> None:
    model = Model(located, held=True)
    gate = Gate(model.go.release, 1)
    looks = watch(Frames(2, True, gate), "x", model)
    first = next(looks)
    assert (first.grab.frame_id, first.answer.frame_id, first.fresh) == (0, 0, True)
    assert len(model.asked) == 1
    gate.open()
    assert [look.grab.frame_id for look in looks] == [1]
    assert [item["frame_id"] for item in model.asked] == [0, 1]


def test_which_frames_are_worth_a_question() -> None:
    pace = Pace()
    assert not pace.worth_asking(0.0)
    pace.came(1.0)
    assert pace.worth_asking(9.0)  # nobody knows when the next one comes
    pace.came(1.1)
    assert pace.worth_asking(1.149) and not pace.worth_asking(1.151)
    pace.asked()
    assert not pace.worth_asking(1.1)
    pace.came(1.3)
    assert pace.worth_asking(1.399) and not pace.worth_asking(1.401)


def test_an_answer_that_says_nothing_gives_no_look_of_its_own() -> None:
    def answer(number: int) -> Answer:
        cut = msgspec.structs.replace(ABSENT, text="", found=None, finish_reason="timeout")
        return located(number) if number == 0 else cut

    model = Model(answer)

    def before(number: int) -> None:
        if number in (1, 2):
            assert model.done.acquire(timeout=30)

    looks = list(watch(Frames(5, True, before), "x", model))
    assert len(model.asked) > 1
    assert [look.fresh for look in looks].count(True) == 1
    frames = [look.grab.frame_id for look in looks if not look.fresh]
    assert len(frames) == len(set(frames))


@pytest.mark.usefixtures("impatient")
def test_a_stream_that_ends_waits_for_the_answer_but_not_for_ever() -> None:
    model = Model(located, held=True)
    assert list(watch(Frames(3, True), "x", model)) == []
    assert model.cancelled


def test_the_last_answer_is_given_with_the_last_frame() -> None:
    model = Model(located, held=True)
    model.go.release()  # it answers at once, but the frames are faster
    stop = threading.Event()

    def slow(number: int) -> Answer:
        assert stop.wait(5)
        return located(number)

    model._answer = slow

    def before(number: int) -> None:
        if number == 4:
            threading.Timer(0.05, stop.set).start()

    looks = list(watch(Frames(5, True, before), "x", model))
    assert looks[-1].grab.frame_id == 4 and looks[-1].fresh
    np.testing.assert_allclose(shown(looks[-1]), box(4), atol=1.0)


@pytest.mark.usefixtures("at_once")
def test_closing_cancels_the_question_and_ends_the_threads() -> None:
    model = Model(located, held=True)
    gate = Gate(model.go.release, 2)
    looks = watch(Frames(1000, True, gate), "x", model)
    assert next(looks).grab.frame_id == 1
    assert model.began.acquire(timeout=5) and model.began.acquire(timeout=5)
    gate.open()  # the frame that is being read comes
    looks.close()  # type: ignore[attr-defined]
    assert model.cancelled and len(model.asked) == 2


@pytest.mark.usefixtures("at_once")
def test_closing_does_not_wait_for_a_frame_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "LAST_FRAME_S", 0.01)
    model = Model(located, held=True)
    gate = Gate(model.go.release, 2)
    looks = watch(Frames(1000, True, gate), "x", model)
    next(looks)
    assert model.began.acquire(timeout=5) and model.began.acquire(timeout=5)
    [reader] = [one for one in threading.enumerate() if one.name == "edge_mm frames"]
    looks.close()  # type: ignore[attr-defined]
    assert model.cancelled and reader.is_alive() and reader.daemon
    gate.open()
    reader.join(30)
    assert not reader.is_alive()


def test_what_goes_wrong_in_the_thread_is_raised_here() -> None:
    def fail(number: int) -> Answer:
        raise UsageError("the text is empty: write a question")

    with pytest.raises(UsageError, match="text is empty"):
        for _ in watch(Frames(1000, True, lambda _: time.sleep(0.005)), "", Model(fail)):
            pass


def test_what_goes_wrong_in_the_source_is_raised_and_cancels() -> None:
    def before(number: int) -> None:
        if number == 3:
            raise SourceError("camera 0 gives no more frames")

    model = Model(located, held=True)
    with pytest.raises(SourceError):
        list(watch(Frames(5, True, before), "x", model))
    assert model.cancelled


def test_questions_keep_their_distance() -> None:
    model = Model(located)
    list(watch(Frames(6, True, lambda _: time.sleep(0.03)), "x", model, answer_every_s=60))
    assert len(model.asked) == 1
    with pytest.raises(UsageError, match="answer_every_s"):
        watch(Frames(1, True), "x", model, answer_every_s=-1)


def test_an_answer_cut_short_changes_nothing() -> None:
    def answer(number: int) -> Answer:
        cut = msgspec.structs.replace(ABSENT, text="", found=None, finish_reason="timeout")
        return located(number) if number == 0 else cut

    looks = list(watch(Frames(5, live=False), "x", Model(answer)))
    assert [look.answer.found for look in looks] == [True] * 5
    assert [look.fresh for look in looks] == [True] + [False] * 4
    assert looks[4].answer.age_s == pytest.approx(0.4)


def test_a_real_session_watches_real_files(
    spoken_bundle: Callable[..., Path], boxes: np.ndarray, tmp_path: Path
) -> None:
    for number in range(3):
        write_image(tmp_path / f"{number}.png", drawn(number))
    with (
        Session(spoken_bundle("<ref>red cup</ref><box>", point_at=5), threads=1) as session,
        open_source(str(tmp_path)) as source,
    ):
        looks = list(watch(source, "find the red cup", session))
    assert [look.grab.frame_id for look in looks] == ["0.png", "1.png", "2.png"]
    [cup] = looks[0].answer.objects
    np.testing.assert_allclose(cup.box_xyxy, boxes[5, :4] * [160, 120, 160, 120], rtol=1e-5)
    assert {look.answer.objects[0].track_id for look in looks} == {1}


def test_a_real_session_watches_a_real_live_source(
    spoken_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    frames = [drawn(number) for number in range(12)]
    with (
        Session(spoken_bundle("<ref>red cup</ref><box>", point_at=5), threads=1) as session,
        open_source(frames, real_time=True, frames_per_s=20) as source,
    ):
        looks = list(watch(source, "find the red cup", session))
        stats = source.stats()
    assert source.live and looks and stats.given >= len({look.grab.frame_id for look in looks})
    assert looks[-1].answer.age_s < 10 and any(look.fresh for look in looks)


@pytest.mark.parametrize("every_s", [0.02, 0.001])  # also faster than anybody looks
def test_a_slow_caller_gets_the_newest_frame(every_s: float) -> None:
    def camera() -> Iterator[np.ndarray]:
        while True:
            time.sleep(every_s)
            yield drawn(0)

    with open_source(camera(), real_time=True) as source:
        behind = []
        for look in itertools.islice(watch(source, "how many?", Model(lambda number: WORDS)), 4):
            behind.append(source.stats().captured - 1 - look.grab.frame_id)
            time.sleep(0.8)
    assert max(behind) * every_s < 0.4, behind  # 0.8 s of frames came meanwhile


def test_a_stream_that_begins_again_is_asked_about_again() -> None:
    clock = watch_module.Clock(0.5)
    times = [0.0, 0.1, 0.5, 0.6, 0.0, 0.1, 0.5]
    due = [clock.due(Grab(drawn(0), at, 0)) for at in times]
    assert due == [True, False, True, False, True, False, True]
