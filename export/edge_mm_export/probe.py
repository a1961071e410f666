"""A runtime session that also tells which ids and logits an answer was made of."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.cast import emulated
from edge_mm_export.frugal import frugal
from edge_mm_export.precision import find_precision
from edge_mm_export.samples import Sample
from edge_mm_export.storage import LARGEST_FILE, graph_bytes, save_graph
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.runner import Array, Arrays, OnnxRunner, Runner, WrappedRunner
from edge_mm_runtime.session import Session

MAX_NEW_TOKENS = 64
LOGITS_BYTES = 8 << 20  # of a question, that are kept: a row is 1 MB with 262,144 words


@dataclass(frozen=True)
class Trace:
    """One answer and how it came about."""

    answer: Answer
    ids: tuple[int, ...]  # the prompt, then what was generated and fed back
    prompt_length: int
    logits: dict[int, npt.NDArray[np.float32]]  # by how many of `ids` were read: [V]

    @property
    def prompt(self) -> tuple[int, ...]:
        """The ids that were given."""
        return self.ids[: self.prompt_length]

    @property
    def generated(self) -> tuple[int, ...]:
        """The ids that the decoder added, without a last one that it had no need to read."""
        return self.ids[self.prompt_length :]


class Graphs(NamedTuple):
    """The files of a target's graphs."""

    vision: Path
    decoder: Path


def runnable(bundle: Bundle, target: str, scratch: Path) -> Graphs:
    """A target's graphs as they are asked here, some of them as copies in `scratch`.

    Those that compute in 16 bits are `emulated`; of large ones ONNX Runtime is kept from making
    copies of their weights, see `frugal`.
    """
    stored = bundle.graphs(target)
    halves = find_precision(target, stored.precision)[1].halves
    return Graphs(
        *(
            _runnable(bundle.path(name), scratch / name, halves)
            for name in (stored.vision, stored.decoder)
        )
    )


def _runnable(path: Path, copy: Path, halves: bool) -> Path:
    stored = ir.load(path)
    model = emulated(stored) if halves else stored
    if graph_bytes(path) > LARGEST_FILE:
        model = frugal(model)
    if model is stored:
        return path
    save_graph(model, copy)
    return copy


class _Recorder(WrappedRunner):
    """Remembers whether all that went by was finite."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.finite = True

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once."""
        outputs = super().run(inputs)
        self.finite &= all(bool(np.isfinite(value).all()) for value in outputs.values())
        return outputs


class _DecoderRecorder(_Recorder):
    """Remembers the ids that the cache holds, and the logits by how many they were."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.ids: list[int] = []
        self.logits: dict[int, npt.NDArray[np.float32]] = {}

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Append ids, from the place on that the inputs say."""
        outputs = super().run(inputs)
        new: list[int] = inputs["input_ids"][0].tolist()
        if "position_ids" in inputs:
            start = int(inputs["position_ids"][0, 0])
        else:
            start = int(inputs["total_sequence_length"][0]) - len(new)
        self.ids[start:] = new
        logits = outputs["logits"][0]
        if len(self.logits) * logits.nbytes < LOGITS_BYTES:
            self.logits[len(self.ids)] = logits
        return outputs


class ProbedSession(Session):
    """A `Session` on a target's graphs by ONNX Runtime, or on runners with the same contract."""

    def __init__(
        self,
        bundle: Path,
        vision: Runner | None = None,
        decoder: Runner | None = None,
        *,
        target: str = "cpu",
    ) -> None:
        opened = load_bundle(bundle)
        geometry = opened.manifest.decoder
        if vision is None or decoder is None:
            # Beside the bundle: what lies in /tmp may be memory.
            with tempfile.TemporaryDirectory(dir=opened.folder.parent) as folder:
                graphs = runnable(opened, target, Path(folder))
                vision = vision or OnnxRunner(graphs.vision)
                decoder = decoder or open_decoder(graphs.decoder, geometry, None, target)
        self._vision_probe = _Recorder(vision)
        self._decoder_probe = _DecoderRecorder(decoder)
        super().__init__(
            opened, target=target, vision=self._vision_probe, decoder=self._decoder_probe
        )

    def trace(self, sample: Sample) -> Trace:
        """Ask, and keep what the decoder read and said."""
        self._decoder_probe.logits.clear()
        answer = self.ask(
            sample.frame, sample.text, mode=sample.mode, max_new_tokens=MAX_NEW_TOKENS
        )
        logits = dict(self._decoder_probe.logits)
        return Trace(answer, tuple(self._decoder_probe.ids), min(logits), logits)

    def finite_traces(self, samples: Iterable[Sample]) -> list[Trace]:
        """Ask, up to the first question whose values are not finite; then close the session."""
        traces: list[Trace] = []
        with self, np.errstate(all="ignore"):
            for sample in samples:
                try:
                    trace = self.trace(sample)
                except (ValueError, OverflowError):  # of a place or a probability that is NaN
                    if self.finite:
                        raise
                    break
                if not self.finite:
                    break
                traces.append(trace)
        return traces

    @property
    def finite(self) -> bool:
        """Whether all that the graphs have given so far was."""
        return self._vision_probe.finite and self._decoder_probe.finite


def trace_all(session: ProbedSession, samples: Iterable[Sample]) -> list[Trace]:
    """Ask everything, then close the session."""
    with session:
        return [session.trace(sample) for sample in samples]
