"""The steps of an export: a pair of graphs each, which answers what torch has answered.

Exact graphs come first, then what the target computes in, then with weights as they are stored;
the last one becomes the bundle. A step that computes in 16 bits may keep parts in fp32.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edge_mm_export.bundle import write_graphs
from edge_mm_export.calibrate import activation_scales, measure_ranges
from edge_mm_export.drift import ask_torch, find_islands, first_drifted
from edge_mm_export.errors import ExportError
from edge_mm_export.islands import NO_ISLANDS, Islands
from edge_mm_export.linear import BlockWeights, Scales
from edge_mm_export.precision import EXACT, PRECISIONS
from edge_mm_export.probe import ProbedSession, Trace
from edge_mm_export.samples import Sample
from edge_mm_export.subject import Subject
from edge_mm_export.verify import Gate, StepFigures, compare, failures, worst
from edge_mm_export.vision import has_int8_tower
from edge_mm_export.vision_int8 import inner_convolutions, measured_int8
from edge_mm_runtime.bundle import Bundle, load_bundle


@dataclass(frozen=True)
class Calibration:
    """Questions to quantise on; `name` is that of their folder."""

    name: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Source:
    """What all graphs of an export are made of; `vision` is the traced fp32 graph."""

    subject: Subject
    vision: ir.Model
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Exam:
    """What every step is asked, how torch answers it, and what is near enough."""

    samples: Sequence[Sample]
    torch_traces: Sequence[Trace]
    gate: Gate


class Step:
    """One pair of graphs on the way to a bundle."""

    figures: StepFigures  # of the last exam
    traces: Sequence[Trace]  # likewise

    def __init__(self, target: str, precision: str, scratch: Path) -> None:
        self.target, self.precision = target, precision
        self.stored = PRECISIONS[target][precision]
        self.name = precision if target == EXACT[0] else f"{target} {precision}"
        self.folder = scratch / self.name.replace(" ", "-")
        self._method = "none" if self.stored.weights == "float" else "rounded to nearest"
        self._measured = ""  # how the tower was, where it was
        self.islands = NO_ISLANDS
        self._scratch = scratch
        self._scales: Scales | None = None
        self._blocks: BlockWeights | None = None
        self._vision: ir.Model | None = None  # the traced graph, measured
        self._convolutions = False  # whether it has any in 8 bits
        self._case = 0  # the question that was furthest from torch

    @property
    def quantisation(self) -> str:
        """How weights were rounded and activations measured, in words."""
        return self._method + self._measured

    @property
    def _is_opaque(self) -> bool:
        """Whether ONNX Runtime cannot show what flows: it fuses fp8 to a kernel without fp8."""
        return self.stored.weights == "fp8"

    def quantise(self, source: Source, exact: Step) -> None:
        """Fit the weights, or measure the activations, if the precision says so."""
        if source.calibration is None:
            return
        if has_int8_tower(self.stored):
            self._convolutions = bool(inner_convolutions(source.vision.graph))
            self._measure_tower(source, source.calibration, exact)
        if not self.stored.is_calibrated:
            return
        samples = source.subject.askable(source.calibration.samples)
        if self.stored.needs_scales:
            ranges = measure_ranges(exact.folder, samples, self._scratch)
            self._scales = activation_scales(ranges, self.stored)
            method = "activations measured"
        else:
            self._blocks = source.subject.fit_blocks(samples, self.stored, exact.folder)
            method = "GPTQ"
        self._method = f"{method} on {len(samples)} questions of {source.calibration.name}"

    def write(self, source: Source, islands: Islands = NO_ISLANDS) -> None:
        """Write the graphs as an unverified bundle, over those of before."""
        self.islands = islands if self.stored.halves else NO_ISLANDS
        shutil.rmtree(self.folder, ignore_errors=True)
        write_graphs(
            self.folder,
            source.subject,
            self._vision or source.vision,
            target=self.target,
            precision=self.precision,
            scales=self._scales,
            quantised=self._blocks,
            islands=self.islands,
        )

    def ask_torch(self, source: Source, samples: Sequence[Sample], gate: Gate) -> Exam:
        """The exam of all steps, of these graphs' model in torch; ExportError for NaN weights."""
        subject = source.subject
        session = ProbedSession(self.folder, subject.torch_vision(), subject.torch_decoder())
        traces = session.finite_traces(samples)
        subject.release()
        if len(traces) < len(samples):
            raise ExportError(
                f"{subject.weight_files()[0]}: in torch, {samples[len(traces)].text!r} about "
                f"{samples[len(traces)].picture} gives values that are not finite"
            )
        return Exam(samples, traces, gate)

    def sit(self, exam: Exam) -> list[str]:
        """Ask the graphs: what is below the gate, in words; empty when it holds."""
        self.traces = ProbedSession(self.folder, target=self.target).finite_traces(exam.samples)
        if len(self.traces) < len(exam.samples):
            self._case = len(self.traces)
            return ["values that are not finite"]
        manifest = self._bundle().manifest
        self.figures = compare(
            self.name,
            exam.samples,
            exam.torch_traces,
            self.traces,
            manifest.image,
            manifest.grounding.bins,
        )
        self._case = worst(exam.torch_traces, self.traces)
        return failures(self.figures, exam.gate)

    def more_islands(self, source: Source, exam: Exam, most: int) -> Islands | None:
        """Those of now and what has to be fp32 besides; None if that is not what is wrong."""
        if not self.stored.halves or self._is_opaque:
            return None
        decoder = source.subject.draw_decoder(
            self.target,
            self.precision,
            scales=self._scales,
            quantised=self._blocks,
            spool=self._scratch / "constants",
        )
        trace = exam.torch_traces[self._case]
        for ids in (trace.prompt, trace.ids):  # what leaves the range may come with the answer
            question, _ = ask_torch(
                source.subject, self._bundle(), self.target, self._pixel_values(exam), list(ids)
            )
            found = find_islands(
                question,
                source.vision,
                decoder,
                self.stored.dtype,
                self.islands,
                self._scratch,
                most,
            )
            if found is not None:
                return found
        return None

    def spare_convolutions(self, source: Source, exact: Step) -> bool:
        """Measure the tower again with its convolutions in fp32, if they are in 8 bits."""
        if not self._convolutions or source.calibration is None:
            return False
        self._convolutions = False
        self._measure_tower(source, source.calibration, exact)
        if self._measured:
            self._measured += ", its convolutions in fp32"
        return True

    def first_drifted(self, source: Source, exam: Exam, exact: Step) -> str:
        """The module to look at, where the answer is that was furthest from torch's."""
        if self._is_opaque:
            return "not known, ONNX Runtime cannot show what flows in fp8"
        return first_drifted(
            source.subject,
            self._bundle(),
            self.target,
            self._pixel_values(exam),
            list(exam.torch_traces[self._case].prompt),
            self._scratch,
            exact=exact._bundle(),
        )

    def _measure_tower(self, source: Source, calibration: Calibration, exact: Step) -> None:
        """Measure what the tower's products read and give, each frame once."""
        apply = exact._bundle().manifest.image.apply
        frames = {sample.picture: sample.frame for sample in calibration.samples}
        made = measured_int8(
            source.vision,
            map(apply, frames.values()),
            self._scratch,
            convolutions=self._convolutions,
        )
        self._vision, self._measured = None, ""
        if made is not source.vision:
            self._vision = made
            self._measured = f"; tower measured on {len(frames)} frames of {calibration.name}"

    def _bundle(self) -> Bundle:
        return load_bundle(self.folder, verify="size")

    def _pixel_values(self, exam: Exam) -> np.ndarray:
        return self._bundle().manifest.image.apply(exam.samples[self._case].frame)
