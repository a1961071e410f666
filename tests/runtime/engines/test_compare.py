"""Two runners side by side: both are ONNX Runtime's, and one is made wrong at a known step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_mm_runtime.agreement import Gate
from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.engines.compare import Comparison, Question, Runners, compare
from edge_mm_runtime.runner import Array, Arrays, Runner
from edge_mm_runtime.session import open_graph

GATE = Gate()
FRAMES = np.random.default_rng(0).integers(0, 255, (2, 60, 80, 3), dtype=np.uint8)
QUESTIONS = [
    Question("a.png", FRAMES[0], "find the red cup", "locate", "locate"),
    Question("a.png", FRAMES[0], "what is on the table", "answer", "words"),
    Question("b.png", FRAMES[1], "point to the cup", "point", "point"),
]

Wrong = Callable[[int, Mapping[str, Array], Arrays], Any]


class Broken:
    """A runner that `wrong(pass, inputs, outputs)` changes, before or after its passes 0, 1, ..."""

    def __init__(self, runner: Runner, wrong: Wrong, before: bool = False) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._runner, self._wrong, self._before = runner, wrong, before
        self._passes = 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        given = {name: array.copy() for name, array in inputs.items()}
        if self._before:
            self._wrong(self._passes, given, {})
        outputs = self._runner.run(given)
        if not self._before:
            self._wrong(self._passes, given, outputs)
        self._passes += 1
        return outputs

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle)


@pytest.fixture
def opened(bundle: Bundle) -> Iterator[tuple[Runners, Runners]]:
    """Two pairs of engines of their own."""
    reference, device = (
        Runners(open_graph(bundle, "vision", "cpu", 1), open_graph(bundle, "decoder", "cpu", 1))
        for _ in range(2)
    )
    yield reference, device
    for runner in (*reference, *device):
        runner.close()


def compared(bundle: Bundle, reference: Runners, device: Runners) -> Comparison:
    return compare(bundle, "cpu", reference, device, QUESTIONS, GATE, 24)


def test_the_same_engine_parts_nowhere(bundle: Bundle, opened: tuple[Runners, Runners]) -> None:
    found = compared(bundle, *opened)
    assert found.failures == ()
    assert found.figures is not None
    assert (found.figures.questions, found.figures.same_tokens, found.figures.mean_iou) == (3, 1, 1)
    for item, looks in zip(found.questions, (True, False, True), strict=True):
        assert (item.parts_at, item.ids_part_at) == (None, None)
        assert item.ids == item.device_ids and len(item.ids) > 3
        steps = list(dict.fromkeys(reading.step for reading in item.readings))
        first = ["vision", "prefill"] if looks else ["prefill"]  # the same picture: not looked at
        assert steps[: len(first)] == first
        assert steps[len(first) :] == [f"decode {n + 1}" for n in range(len(steps) - len(first))]
        assert {reading.difference for reading in item.readings} == {0.0}
        same = {r.same_id for r in item.readings if r.tensor == "logits"}
        assert same == {True}
    outputs = {reading.tensor for reading in found.questions[0].readings}
    assert outputs == {"image_embeds", "region_keys", "region_boxes", "logits", "region_query"}


@pytest.mark.parametrize("step", [0, 2, 3])
def test_the_step_that_is_wrong_is_named(
    step: int, bundle: Bundle, opened: tuple[Runners, Runners]
) -> None:
    """Only this pass: those before and after are told to be right."""
    reference, device = opened

    def wrong(passes: int, _: Any, outputs: Arrays) -> None:
        if passes == step:
            outputs["logits"][:] = np.roll(outputs["logits"], 1)

    device = Runners(device.vision, Broken(device.decoder, wrong))
    found = compared(bundle, reference, device)
    name = f"decode {step}" if step else "prefill"
    parts_at = found.questions[0].parts_at
    assert parts_at is not None
    assert (parts_at.step, parts_at.tensor, parts_at.same_id) == (name, "logits", False)
    for item in found.questions:
        wrong_steps = {r.step for r in item.readings if r.cosine < 0.99}
        assert wrong_steps == ({name} if item is found.questions[0] else set())
    (failure,) = [line for line in found.failures if "parts at" in line]
    assert failure.startswith(f"a.png, 'find the red cup' parts at {name}: logits has cosine ")


def test_a_cache_that_is_not_kept_is_seen_at_the_first_token(
    bundle: Bundle, opened: tuple[Runners, Runners]
) -> None:
    """The prompt is right; what is written where the next id reads is not."""
    reference, device = opened

    def forget(passes: int, inputs: Any, _: Any) -> None:
        if inputs["input_ids"].shape[1] == 1:
            inputs["seqlens_k"][:] = 0

    device = Runners(device.vision, Broken(device.decoder, forget, before=True))
    found = compared(bundle, reference, device)
    first = found.questions[0]
    assert first.parts_at is not None and first.parts_at.step == "decode 1"
    assert first.ids_part_at is not None
    assert first.ids[: first.ids_part_at] == first.device_ids[: first.ids_part_at]
    assert first.ids != first.device_ids


def test_the_picture_is_compared_for_itself(
    bundle: Bundle, opened: tuple[Runners, Runners]
) -> None:
    """Its words are right when they are given the right picture."""
    reference, device = opened

    def turned(_: int, inputs: Any, outputs: Arrays) -> None:
        outputs["image_embeds"] *= -1

    device = Runners(Broken(device.vision, turned), device.decoder)
    found = compared(bundle, reference, device)
    parts_at = [item.parts_at for item in found.questions]
    assert [part and (part.step, part.tensor) for part in parts_at] == [
        ("vision", "image_embeds"),
        None,  # the same picture
        ("vision", "image_embeds"),
    ]
    assert all(r.difference == 0 for i in found.questions for r in i.readings if r.step != "vision")


def test_rounding_is_no_parting(bundle: Bundle, opened: tuple[Runners, Runners]) -> None:
    reference, device = opened
    rng = np.random.default_rng(1)

    def round_off(_: int, inputs: Any, outputs: Arrays) -> None:
        for values in outputs.values():
            values += rng.normal(0, 1e-4, values.shape).astype(values.dtype)

    device = Runners(device.vision, Broken(device.decoder, round_off))
    found = compared(bundle, reference, device)
    assert not [item.parts_at for item in found.questions if item.parts_at]
    assert 0 < max(r.difference for r in found.questions[0].readings) < 0.001


def test_nan_is_a_parting_and_no_answer(bundle: Bundle, opened: tuple[Runners, Runners]) -> None:
    reference, device = opened

    def nothing(_: int, inputs: Any, outputs: Arrays) -> None:
        outputs["logits"][:] = np.nan
        outputs["region_query"][:] = np.nan

    device = Runners(device.vision, Broken(device.decoder, nothing))
    found = compared(bundle, reference, device)
    assert all(item.parts_at and item.parts_at.step == "prefill" for item in found.questions)
    assert found.failures
