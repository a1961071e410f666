"""How much an answer depends on the picture, against probabilities that are known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from edge_mm_runtime import Session
from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.runner import Array, Arrays, TensorSpec

WHITE = np.full((60, 80, 3), 255, np.uint8)
VOCAB, HIDDEN, CELLS, KEY = 448, 32, 16, 8


class Eye:
    """A vision runner: how bright the picture is (0: the mean colour) in embeds and keys."""

    def __init__(self, boxes: np.ndarray, steady: bool = False) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        shapes = {"image_embeds": HIDDEN, "region_keys": KEY, "region_boxes": 6}
        self.outputs = {
            name: TensorSpec(np.float32, (1, CELLS, size)) for name, size in shapes.items()
        }
        self.boxes = boxes
        self.steady = steady  # points at cell 5 whatever it sees
        self.runs = 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        self.runs += 1
        bright = np.float32(np.sign(np.round(inputs["pixel_values"].mean(), 3)))
        keys = np.zeros((1, CELLS, KEY), np.float32)
        keys[0, 5, 0] = 1 if self.steady else bright  # cell 5, if there is a picture
        return {
            "image_embeds": np.full((1, CELLS, HIDDEN), bright, np.float32),
            "region_keys": keys,
            "region_boxes": self.boxes[None],
        }

    def close(self) -> None:
        pass


class Mouth:
    """A decoder runner: id after id of `says`; `<none>` by how bright the picture is."""

    def __init__(self, tokenizer: Tokenizer, says: str, none: float = 0.0) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs = {"region_query": TensorSpec(np.float32, (1, KEY))}
        self.says = tokenizer.encode(says, add_special_tokens=False).ids
        self.start = tokenizer.token_to_id("<assistant>")
        self.none, self.doubt = tokenizer.token_to_id("<none>"), none
        self.stop = tokenizer.token_to_id("<eos>")
        self.ids: list[int] = []
        self.fed: list[int] = []

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        new = inputs["input_ids"][0].tolist()
        self.fed.append(len(new))
        self.ids[int(inputs["total_sequence_length"][0]) - len(new) :] = new
        said = len(self.ids) - self.ids.index(self.start) - 1
        logits = np.zeros((1, VOCAB), np.float32)
        if said:
            logits[0, [*self.says, self.stop][min(said, len(self.says))]] = 30
        else:
            logits[0, self.none] = self.doubt * float(inputs["image_embeds"].mean())
        return {"logits": logits, "region_query": np.full((1, KEY), 8, np.float32)}

    def close(self) -> None:
        pass


def test_words_by_the_ratio_of_their_probabilities(
    tiny_bundle: Path, tokenizer: Tokenizer, boxes: np.ndarray
) -> None:
    # <ref> or <none>: at 2 : 0 with the picture, 0 : 0 without it
    bundle = load_bundle(tiny_bundle, verify="size")
    mouth = Mouth(tokenizer, "<none>", none=2.0)
    with Session(_no_threshold(bundle), 1, vision=Eye(boxes), decoder=mouth) as session:
        answer = session.ask(WHITE, "find the hammer", mode="locate", evidence=True)
    assert answer.found is False
    picture = 1 / (1 + math.exp(-2))
    assert answer.confidence == pytest.approx(picture, rel=1e-5)
    assert answer.visual_evidence == pytest.approx(1 - 0.5 / picture, rel=1e-5)
    assert answer.timings_ms["total"] >= answer.timings_ms["evidence"] > 0


def test_what_is_likelier_without_the_picture_has_none(
    tiny_bundle: Path, tokenizer: Tokenizer, boxes: np.ndarray
) -> None:
    # the bundle's threshold says <ref>, at 0 : 2 with the picture and 0 : 0 without it
    bundle = load_bundle(tiny_bundle, verify="size")
    mouth, eye = Mouth(tokenizer, "<ref>red cup</ref><box>", none=2.0), Eye(boxes, steady=True)
    with Session(bundle, 1, vision=eye, decoder=mouth) as session:
        answer = session.ask(WHITE, "find the red cup", mode="locate", evidence=True)
    assert (answer.found, answer.visual_evidence) == (True, 0.0)


def test_places_by_the_mass_of_the_cells_that_agree(
    tiny_bundle: Path, tokenizer: Tokenizer, boxes: np.ndarray
) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    mouth = Mouth(tokenizer, "<ref>red cup</ref><box>")
    with Session(bundle, 1, vision=Eye(boxes), decoder=mouth) as session:
        answer = session.ask(WHITE, "find the red cup", mode="locate", evidence=True)
    [cup] = answer.objects
    np.testing.assert_allclose(cup.box_xyxy, boxes[5, :4] * [80, 60, 80, 60], rtol=1e-2)
    pointed = math.exp(8) / (math.exp(8) + 15)  # no two cells agree; all alike without a picture
    assert answer.visual_evidence == pytest.approx(1 - (1 / 16) / pointed, rel=1e-4)


def test_an_answer_that_never_looks_has_none(spoken_bundle: Callable[..., Path]) -> None:
    with Session(spoken_bundle("yes"), threads=1) as session:
        answer = session.ask(WHITE, "is there a cup?", evidence=True)
        assert answer.visual_evidence == 0.0
        assert session.ask(WHITE, "is there a cup?").visual_evidence is None
    with Session(spoken_bundle("find the red cup"), threads=1) as session:
        short = session.ask(WHITE, "is there a cup?", evidence=True, max_new_tokens=2)
        assert (short.finish_reason, short.visual_evidence) == ("length", None)


def test_it_costs_about_one_further_question(
    tiny_bundle: Path, tokenizer: Tokenizer, boxes: np.ndarray
) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    eye, mouth = Eye(boxes), Mouth(tokenizer, "<ref>red cup</ref><box>")
    with Session(bundle, 1, vision=eye, decoder=mouth) as session:
        answer = session.ask(WHITE, "find the red cup", mode="locate", evidence=True)
        assert answer.work
        alone = answer.work.decoder_passes
        assert eye.runs == 2
        assert len(mouth.fed) == 2 * alone
        session.ask(WHITE - 5, "find the red cup", mode="locate", evidence=True)
        assert eye.runs == 3  # the blank picture is known by now


def test_the_next_question_about_the_frame_is_right(tiny_bundle: Path) -> None:
    frame = np.random.default_rng(2).integers(0, 255, (60, 80, 3), dtype=np.uint8)

    def ask(session: Session, evidence: bool = False) -> tuple[object, ...]:
        text = "find the red cup"
        answer = session.ask(frame, text, mode="locate", max_new_tokens=60, evidence=evidence)
        assert answer.objects
        return answer.text, [item.box_xyxy for item in answer.objects]

    with Session(tiny_bundle, threads=1) as session:
        expected = ask(session)
        assert ask(session, evidence=True) == expected
        assert ask(session) == expected
        work = session.ask(frame, "find the red cup", max_new_tokens=1).work
        assert work
        assert (work.looked, work.prefilled_tokens) == (False, 1)


def test_no_time_is_no_evidence(tiny_bundle: Path, tokenizer: Tokenizer, boxes: np.ndarray) -> None:
    bundle = load_bundle(tiny_bundle, verify="size")
    mouth = Mouth(tokenizer, "<ref>red cup</ref><box>")
    with Session(bundle, 1, vision=Eye(boxes), decoder=mouth) as session:
        alone = session.ask(WHITE, "find the red cup", mode="locate").work
        assert alone
        done, run = len(mouth.fed), mouth.run

        def cancel_late(inputs: Mapping[str, Array]) -> Arrays:
            if len(mouth.fed) > done + alone.decoder_passes:
                session.cancel()
            return run(inputs)

        mouth.run = cancel_late  # type: ignore[method-assign]
        answer = session.ask(WHITE, "find the red cup", mode="locate", evidence=True)
    assert (answer.finish_reason, answer.visual_evidence) == ("stop", None)
    assert len(answer.objects) == 1


def _no_threshold(bundle: Bundle) -> Bundle:
    grounding = msgspec.structs.replace(bundle.manifest.grounding, existence_threshold=None)
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, grounding=grounding))
