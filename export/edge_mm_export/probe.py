"""A runtime session that also tells which ids and logits an answer was made of."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.cast import emulated
from edge_mm_export.precision import find_precision
from edge_mm_export.samples import Sample
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.bundle import Bundle, DecoderGeometry, load_bundle
from edge_mm_runtime.decoder import Decoder, Position, open_decoder
from edge_mm_runtime.runner import OnnxRunner, Runner
from edge_mm_runtime.session import Session

MAX_NEW_TOKENS = 64


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
    """A target's graphs; those that compute in 16 bits as copies in `scratch`: see `emulated`."""
    stored = bundle.graphs(target)
    graphs = Graphs(bundle.path(stored.vision), bundle.path(stored.decoder))
    if find_precision(target, stored.precision)[1].activations == "FLOAT":
        return graphs
    copies = Graphs(*(scratch / path.name for path in graphs))
    for path, copy in zip(graphs, copies, strict=True):
        ir.save(emulated(ir.load(path)), copy)
    return copies


class _Recorder(Decoder):
    """A decoder that remembers its logits, by how many ids it had read."""

    def __init__(self, runner: Runner, geometry: DecoderGeometry, target: str) -> None:
        super().__init__(runner, geometry, target)
        self.logits: dict[int, npt.NDArray[np.float32]] = {}

    @property
    def ids(self) -> tuple[int, ...]:
        """What the cache holds."""
        return tuple(self._ids)

    def extend(self, ids: Sequence[int]) -> Position:
        position = super().extend(ids)
        self.logits[len(self._ids)] = position.logits
        return position


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
        with tempfile.TemporaryDirectory() as folder:
            graphs = runnable(opened, target, Path(folder))
            super().__init__(
                opened,
                vision=vision or OnnxRunner(graphs.vision),
                decoder=decoder or open_decoder(graphs.decoder, geometry, None, target),
            )
        self._recorder = _Recorder(self._decoder_runner, geometry, target)
        self._decoder = self._recorder

    def trace(self, sample: Sample) -> Trace:
        """Ask, and keep what the decoder read and said."""
        self._recorder.logits.clear()
        answer = self.ask(
            sample.frame, sample.text, mode=sample.mode, max_new_tokens=MAX_NEW_TOKENS
        )
        logits = dict(self._recorder.logits)
        return Trace(answer, self._recorder.ids, min(logits), logits)


def trace_all(session: ProbedSession, samples: Iterable[Sample]) -> list[Trace]:
    """Ask everything, then close the session."""
    with session:
        return [session.trace(sample) for sample in samples]
