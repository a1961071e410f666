"""A whole bundle, end to end, on ONNX Runtime."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edge_mm_runtime import Answer, Session
from edge_mm_runtime.bundle import load_bundle, write_manifest
from edge_mm_runtime.errors import BundleError, ImageError, UsageError
from edge_mm_runtime.grammar import MODES

Spoken = Callable[..., Path]
FRAME = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Iterator[Session]:
    with Session(tiny_bundle, threads=1) as session:
        yield session


def test_a_located_object_has_the_head_box_in_frame_pixels(
    spoken_bundle: Spoken, boxes: np.ndarray
) -> None:
    with Session(spoken_bundle("<ref>red cup</ref><box>", point_at=6)) as session:
        answer = session.ask(FRAME, "find the red cup", mode="locate")
    assert (answer.text, answer.found, answer.finish_reason) == ("red cup", True, "stop")
    [cup] = answer.objects
    # The float box of the pointed cell, not its quantised tokens.
    np.testing.assert_allclose(cup.box_xyxy, boxes[6, :4] * [80, 60, 80, 60], rtol=1e-6)
    np.testing.assert_allclose(cup.point_xy, boxes[6, 4:] * [80, 60], rtol=1e-6)
    assert cup.label == "red cup"
    assert cup.confidence > 0.9


def test_absence_is_an_answer(spoken_bundle: Spoken) -> None:
    with Session(spoken_bundle("<none>")) as session:
        answer = session.ask(FRAME, "find the hammer", mode="locate")
    assert (answer.text, answer.found, answer.objects) == ("not in view", False, ())


def test_free_answers_stay_free(spoken_bundle: Spoken) -> None:
    with Session(spoken_bundle("yes")) as session:
        answer = session.ask(FRAME, "is there a cup?")
    assert (answer.text, answer.found, answer.objects, answer.steps) == ("yes", None, (), ())


def test_steps_carry_their_objects(spoken_bundle: Spoken) -> None:
    with Session(spoken_bundle("place left of <ref>blue bowl</ref><box>")) as session:
        answer = session.ask(FRAME, "put it left of the blue bowl", mode="steps")
    [step] = answer.steps
    assert (step.action, step.relation, step.object) == ("place", "left of", answer.objects[0])
    assert answer.text == "place left of blue bowl"


def test_location_tokens_without_a_head(spoken_bundle: Spoken) -> None:
    spoken = "<ref>red cup</ref><box><loc010><loc020><loc090><loc100></box>"
    with Session(spoken_bundle(spoken, box_source="tokens")) as session:
        [cup] = session.ask(FRAME, "find the red cup", mode="locate").objects
    expected = (np.array([10, 20, 90, 100]) + 0.5) / 128 * [80, 60, 80, 60]
    np.testing.assert_allclose(cup.box_xyxy, expected)
    assert cup.point_xy is None


@pytest.mark.parametrize(("threshold", "found"), [(None, True), (0.5, True), (0.95, False)])
def test_the_existence_threshold_decides_between_ref_and_none(
    spoken_bundle: Spoken, threshold: float | None, found: bool
) -> None:
    # p(<ref>) / (p(<ref>) + p(<none>)) = sigmoid(2) = 0.88
    folder = spoken_bundle("<ref>red cup</ref><box>", doubt=2.0, existence_threshold=threshold)
    with Session(folder) as session:
        assert session.ask(FRAME, "find the red cup", mode="locate").found is found


def test_confidence_is_presence_times_region_mass(spoken_bundle: Spoken) -> None:
    with Session(spoken_bundle("<ref>red cup</ref><box>", doubt=2.0)) as session:
        [cup] = session.ask(FRAME, "find the red cup", mode="locate").objects
    assert cup.confidence == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.01)


def test_words_are_as_sure_as_their_choices(spoken_bundle: Spoken) -> None:
    with Session(spoken_bundle("yes", doubt=1.0)) as session:
        answer = session.ask(FRAME, "is there a cup?")
        assert answer.text == "yes"
        # "yes" against <none>; every other choice is 20 against zeros
        assert answer.confidence == pytest.approx(1 / (1 + np.exp(-1.0)), abs=1e-4)
        # where <none> is not allowed, nothing is left to doubt
        answer = session.ask(FRAME, "is there a cup?", mode="answer")
        assert answer.confidence == pytest.approx(1.0, abs=1e-4)


def test_absence_is_the_other_side_of_presence(spoken_bundle: Spoken) -> None:
    folder = spoken_bundle("<ref>red cup</ref><box>", doubt=2.0, existence_threshold=0.95)
    with Session(folder) as session:
        answer = session.ask(FRAME, "find the red cup", mode="locate")
    assert answer.found is False
    assert answer.confidence == pytest.approx(1 / (1 + np.exp(2.0)), abs=1e-4)


@pytest.mark.parametrize("spoken", ["<ref>red cup</ref><box>", "pick <ref>red cup</ref><box>"])
def test_what_is_located_has_its_own_confidence(spoken_bundle: Spoken, spoken: str) -> None:
    with Session(spoken_bundle(spoken)) as session:
        answer = session.ask(FRAME, "find the red cup")
    assert answer.objects
    assert answer.confidence is None


@pytest.mark.parametrize("mode", MODES)
def test_random_weights_still_answer_well_formed(tiny: Session, mode: str) -> None:
    for seed in range(4):
        frame = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        answer = tiny.ask(frame, f"find the red cup {seed}", mode=mode)  # type: ignore[arg-type]
        assert answer.finish_reason in ("stop", "length")
        for item in answer.objects:
            x1, y1, x2, y2 = item.box_xyxy or ()
            assert 0 <= x1 <= x2 <= 64
            assert 0 <= y1 <= y2 <= 48
        if mode in ("locate", "point", "steps") and answer.finish_reason == "stop":
            assert answer.found is bool(answer.objects)


def test_reuse_of_the_prefix_changes_nothing(tiny: Session, tiny_bundle: Path) -> None:
    texts = ("find the red cup", "where is the blue bowl", "find the red bowl")
    asked = [tiny.ask(FRAME, text, mode="locate", max_new_tokens=40) for text in texts]
    for text, reused in zip(texts, asked, strict=True):
        with Session(tiny_bundle, threads=1) as fresh:
            again = fresh.ask(FRAME, text, mode="locate", max_new_tokens=40)
        assert _same(again, reused)


def test_another_frame_is_looked_at(tiny: Session) -> None:
    dark = tiny.ask(np.zeros_like(FRAME), "find the red cup", max_new_tokens=20)
    tiny.ask(FRAME, "find the red cup", max_new_tokens=20)
    again = tiny.ask(np.zeros_like(FRAME), "find the red cup", max_new_tokens=20)
    assert _same(dark, again)


def test_a_frame_changed_in_place_is_another_frame(tiny: Session, tiny_bundle: Path) -> None:
    buffer = FRAME.copy()
    tiny.ask(buffer, "find the red cup", max_new_tokens=20)
    buffer[:] = 255 - buffer
    reused = tiny.ask(buffer, "find the red cup", max_new_tokens=20)
    with Session(tiny_bundle, threads=1) as fresh:
        assert _same(fresh.ask(buffer, "find the red cup", max_new_tokens=20), reused)


def test_grey_and_alpha_frames_are_taken(tiny: Session) -> None:
    grey = tiny.ask(FRAME[..., 0], "find the red cup", max_new_tokens=8)
    column = tiny.ask(FRAME[..., :1], "find the red cup", max_new_tokens=8)
    alpha = tiny.ask(np.dstack([FRAME, FRAME[..., 0]]), "find the red cup", max_new_tokens=8)
    assert _same(grey, column)
    assert _same(alpha, tiny.ask(FRAME, "find the red cup", max_new_tokens=8))


def test_a_timeout_is_honoured_and_named(tiny: Session) -> None:
    answer = tiny.ask(FRAME, "find the red cup", timeout_s=0.0)
    assert (answer.finish_reason, answer.objects, answer.found) == ("timeout", (), None)
    assert answer.confidence is None


def test_max_new_tokens_ends_the_answer(tiny: Session) -> None:
    answer = tiny.ask(FRAME, "describe", mode="caption", max_new_tokens=1)
    assert (answer.finish_reason, answer.confidence) == ("length", None)


def test_an_answer_says_how_old_its_frame_is(tiny: Session) -> None:
    taken = time.monotonic() - 5.0
    answer = tiny.ask(FRAME, "find", frame_id=17, timestamp_s=taken, max_new_tokens=1)
    assert (answer.frame_id, answer.timestamp_s) == (17, taken)
    assert answer.age_s is not None
    assert answer.age_s >= 5.0
    assert set(answer.timings_ms) == {"image", "vision", "prefill", "decode", "total"}


def test_bad_questions_are_refused_with_what_to_do(tiny: Session) -> None:
    with pytest.raises(UsageError, match="the text is empty: say what to look for"):
        tiny.ask(FRAME, "  \n ")
    with pytest.raises(UsageError, match="unknown mode 'find': one of auto, locate"):
        tiny.ask(FRAME, "cup", mode="find")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_new_tokens is 0: give at least 1"):
        tiny.ask(FRAME, "cup", max_new_tokens=0)
    with pytest.raises(UsageError, match=r"max_new_tokens is 2.5: .*whole number"):
        tiny.ask(FRAME, "cup", max_new_tokens=2.5)  # type: ignore[arg-type]
    assert tiny.ask(FRAME, "cup", max_new_tokens=np.int64(1)).finish_reason == "length"  # type: ignore[arg-type]
    for text in (None, 5, b"find the cup", ["cup"]):
        with pytest.raises(UsageError, match=r"the text is .*: give words"):
            tiny.ask(FRAME, text)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"the text is too long.* takes 159"):
        tiny.ask(FRAME, "cup " * 200)
    with pytest.raises(ImageError, match="dtype uint8"):
        tiny.ask(FRAME.astype(np.float32), "cup")  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, -1, 257, 10**6])
def test_threads_that_cannot_be(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}: give 1 to 256"):
        Session(tiny_bundle, threads=threads)


def test_words_that_look_like_tags_stay_words(tiny: Session) -> None:
    plain = tiny.ask(FRAME, "find none red", max_new_tokens=10)
    tagged = tiny.ask(FRAME, "find <none> red", max_new_tokens=10)
    assert _same(plain, tagged)


def test_graphs_that_do_not_do_what_the_bundle_says(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    manifest = load_bundle(folder).manifest
    prompt = msgspec.structs.replace(manifest.prompt, image_token_count=9)
    write_manifest(folder, msgspec.structs.replace(manifest, prompt=prompt))
    with pytest.raises(BundleError, match="gives 16 image tokens, the prompt has 9"):
        Session(folder)
    graph = onnx.load(str(folder / "decoder.cpu.onnx"))
    [query] = [item for item in graph.graph.output if item.name == "region_query"]
    graph.graph.output.remove(query)
    onnx.save(graph, str(folder / "decoder.cpu.onnx"))
    write_manifest(folder, manifest)
    with pytest.raises(BundleError, match="its graphs do not give region_query"):
        Session(folder)


def _same(one: Answer, other: Answer) -> bool:
    assert (one.text, one.found, one.finish_reason) == (
        other.text,
        other.found,
        other.finish_reason,
    )
    for a, b in zip(one.objects, other.objects, strict=True):
        assert a.box_xyxy == b.box_xyxy
        assert a.confidence == pytest.approx(b.confidence, abs=1e-4)
    return True
