"""Two engines side by side, step by step: what `edge-mm check --device` does on the robot.

First both read the same inputs at every step, the reference's, so that each step is compared for
itself and the first one that is not alike is where they part. Then the device answers alone, with
its own picture and its own words, and its answers are held to the export's gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from typing import NamedTuple

import msgspec
import numpy as np

from edge_mm_runtime.agreement import (
    Gate,
    Pair,
    StepFigures,
    allowing_one,
    compare_logits,
    failures,
    measure,
    same_tokens,
)
from edge_mm_runtime.answer import Answer, Mode
from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.engines.locate import find_engines
from edge_mm_runtime.engines.manifest import Machine
from edge_mm_runtime.engines.runner import open_engine
from edge_mm_runtime.errors import BundleError, EdgeMMError
from edge_mm_runtime.image import Frame, read_image
from edge_mm_runtime.references import FOLDER, read_gate, read_references
from edge_mm_runtime.runner import Array, Arrays, Runner
from edge_mm_runtime.session import Session, open_graph

_IDS = "input_ids"


class Runners(NamedTuple):
    """The two engines of a bundle."""

    vision: Runner
    decoder: Runner


class Question(NamedTuple):
    """What is asked about a frame; `picture` names it."""

    picture: str
    frame: Frame
    text: str
    mode: Mode
    type: str


class Reading(msgspec.Struct, frozen=True):
    """How far one output of one step is from the reference's.

    step     vision, prefill, or decode and which one
    same_id  of logits: whether the likeliest id is the same
    """

    step: str
    tensor: str
    cosine: float
    difference: float
    same_id: bool | None = None


class Asked(NamedTuple):
    """A question that was asked: its answer, or why there is none."""

    answer: Answer | None
    error: str
    readings: tuple[Reading, ...]
    ids: tuple[int, ...]  # read after the prompt


class Compared(msgspec.Struct, frozen=True):
    """One question. `parts_at` is the first reading below the gate; `ids_part_at` the first place
    in the answer where the device alone chose another id; None: nowhere."""

    picture: str
    question: str
    readings: tuple[Reading, ...]
    parts_at: Reading | None
    ids: tuple[int, ...]
    device_ids: tuple[int, ...]
    ids_part_at: int | None
    text: str
    device_text: str


class Comparison(msgspec.Struct, frozen=True):
    """Everything that was compared; `figures` are the device's answers against the reference's."""

    questions: tuple[Compared, ...]
    figures: StepFigures | None
    gate: Gate
    failures: tuple[str, ...]


class Engines(msgspec.Struct, frozen=True):
    """Which engines were compared; `graph_error` says why decoding is not one CUDA graph."""

    folder: str
    machine: Machine
    target: str
    precision: str
    graph_error: str | None


def compare_device(bundle: Bundle, target: str | None = None) -> tuple[Engines, Comparison]:
    """Compare this machine's engines with ONNX Runtime, on the graphs that they were built from.

    EngineError or MissingExtraError where there is no GPU or no engine for it.
    """
    found = find_engines(bundle, target)
    made = found.manifest
    questions, gate, most = _questions(bundle)
    with ExitStack() as opened:

        def owned(runner: Runner) -> Runner:
            opened.callback(runner.close)
            return runner

        decoder = opened.enter_context(open_engine(bundle, "decoder", made.target))
        vision = opened.enter_context(open_engine(bundle, "vision", made.target))
        reference = Runners(
            owned(open_graph(bundle, "vision", made.target)),
            owned(open_graph(bundle, "decoder", made.target)),
        )
        comparison = compare(
            bundle, made.target, reference, Runners(vision, decoder), questions, gate, most
        )
        folder = str(found.folder)
        engines = Engines(folder, made.machine, made.target, made.precision, decoder.graph_error)
    return engines, comparison


def compare(
    bundle: Bundle,
    target: str,
    reference: Runners,
    device: Runners,
    questions: Sequence[Question],
    gate: Gate,
    max_new_tokens: int,
) -> Comparison:
    """Ask both every question; the engines stay open.

    A step parts from the reference where its cosine is below the gate's of logits.
    """
    sight = SideBySide(reference.vision, device.vision, ("vision",))
    speech = SideBySide(reference.decoder, device.decoder, ("prefill", "decode {}"))
    # One session after the other: each must be the only one that fills the device's cache.
    together = _ask(bundle, target, sight, speech, questions, max_new_tokens)
    sight, speech = SideBySide(device.vision), SideBySide(device.decoder)
    alone = _ask(bundle, target, sight, speech, questions, max_new_tokens)
    compared: list[Compared] = []
    pairs: list[Pair] = []
    missed: list[str] = []
    for question, expected, found in zip(questions, together, alone, strict=True):
        compared.append(_compared(question, expected, found, gate))
        if expected.answer is not None and found.answer is not None:
            pairs.append(_pair(bundle, question, expected.answer, found.answer, compared[-1]))
        missed += [asked.error for asked in (expected, found) if asked.error]
    figures = measure("device", pairs, bundle.manifest.grounding.bins) if pairs else None
    if figures is not None:
        gate = allowing_one(gate, figures)
        missed += failures(figures, gate)
    missed += [
        f"{item.picture}, {item.question!r} parts at {item.parts_at.step}: "
        f"{item.parts_at.tensor} has cosine {item.parts_at.cosine:.4f} and differs by up to "
        f"{item.parts_at.difference:.4g}"
        for item in compared
        if item.parts_at is not None
    ]
    return Comparison(tuple(compared), figures, gate, tuple(missed))


class SideBySide:
    """A runner that gives the reference's outputs and reads how far the other's are from them.

    Both get the same inputs. `names` are those of the passes since `clear`, the last one for all
    that follow, numbered from 1. Without a second runner only the ids are kept. Closing it leaves
    both open.
    """

    def __init__(
        self, reference: Runner, other: Runner | None = None, names: tuple[str, ...] = ("",)
    ) -> None:
        self.inputs, self.outputs = reference.inputs, reference.outputs
        self.readings: list[Reading] = []
        self.ids: list[int] = []  # read after the prompt
        self._reference, self._other, self._names = reference, other, names
        self._passes = 0

    def clear(self) -> None:
        """Begin another question."""
        self.readings, self.ids, self._passes = [], [], 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run both once."""
        expected = self._reference.run(inputs)
        if self._passes and _IDS in inputs:
            self.ids += inputs[_IDS][0].tolist()
        if self._other is not None:
            name = self._names[min(self._passes, len(self._names) - 1)].format(self._passes)
            found = self._other.run(inputs)
            self.readings += [
                _reading(name, tensor, expected[tensor], found[tensor]) for tensor in expected
            ]
        self._passes += 1
        return expected

    def close(self) -> None:
        """Nothing: the engines are the caller's."""


def _ask(
    bundle: Bundle,
    target: str,
    sight: SideBySide,
    speech: SideBySide,
    questions: Sequence[Question],
    max_new_tokens: int,
) -> list[Asked]:
    """Every question in one session."""
    asked: list[Asked] = []
    with Session(bundle, target=target, vision=sight, decoder=speech) as session:
        for question in questions:
            sight.clear()
            speech.clear()
            answer, error = None, ""
            try:
                answer = session.ask(
                    question.frame,
                    question.text,
                    mode=question.mode,
                    max_new_tokens=max_new_tokens,
                )
            except EdgeMMError:
                raise
            except Exception as failed:  # e.g. NaN; onnxruntime's own classes share no base
                error = f"{failed} ({question.picture}, {question.text!r})"
            readings = (*sight.readings, *speech.readings)
            asked.append(Asked(answer, error, readings, tuple(speech.ids)))
    return asked


def _reading(step: str, tensor: str, expected: Array, found: Array) -> Reading:
    a, b = (values.astype(np.float32) for values in (expected, found))
    same = bool(a.argmax() == b.argmax()) if tensor == "logits" else None
    return Reading(step, tensor, *compare_logits(a, b), same_id=same)


def _compared(question: Question, expected: Asked, found: Asked, gate: Gate) -> Compared:
    # Not "cosine < gate": NaN is no agreement either.
    parts = (item for item in expected.readings if not item.cosine >= gate.logits_cosine)
    unlike = (index for index, (a, b) in enumerate(zip_longest(expected.ids, found.ids)) if a != b)
    return Compared(
        picture=question.picture,
        question=question.text,
        readings=expected.readings,
        parts_at=next(parts, None),
        ids=expected.ids,
        device_ids=found.ids,
        ids_part_at=next(unlike, None),
        text="" if expected.answer is None else expected.answer.text,
        device_text="" if found.answer is None else found.answer.text,
    )


def _pair(
    bundle: Bundle, question: Question, expected: Answer, found: Answer, compared: Compared
) -> Pair:
    height, width = question.frame.shape[:2]
    logits = [(r.cosine, r.difference) for r in compared.readings if r.tensor == "logits"]
    return Pair(
        picture=question.picture,
        question=question.text,
        type=question.type,
        placement=bundle.manifest.image.placement(width, height),
        torch=expected,  # what the figures call torch is the reference here
        exported=found,
        logits=logits,
        same_tokens=same_tokens(compared.ids, compared.device_ids),
    )


def _questions(bundle: Bundle) -> tuple[list[Question], Gate, int]:
    """What the bundle has to ask, its gate, and how many ids an answer may have."""
    references = read_references(bundle)
    if references is None:
        raise BundleError(
            f"{bundle.folder} has no references to ask about: export the bundle again"
        )
    questions = [
        Question(
            item.picture,
            read_image(bundle.path(f"{FOLDER}/{item.picture}")),
            item.question,
            item.mode,
            item.type,
        )
        for item in references.questions
    ]
    return questions, read_gate(bundle), references.max_new_tokens
