"""A runtime session that also tells which ids and logits an answer was made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_mm_export.samples import Sample
from edge_mm_runtime.answer import Answer
from edge_mm_runtime.decoder import Decoder
from edge_mm_runtime.runner import Array, Arrays, Runner
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


class _Recorder:
    """A decoder's Runner that passes everything through and remembers it."""

    def __init__(self, runner: Runner) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self.ids: list[int] = []
        self.logits: dict[int, npt.NDArray[np.float32]] = {}
        self._runner = runner

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        outputs = self._runner.run(inputs)
        new = inputs["input_ids"][0].tolist()
        total = int(inputs["total_sequence_length"][0])
        del self.ids[total - len(new) :]
        self.ids += new
        self.logits[total] = outputs["logits"][0]
        return outputs

    def close(self) -> None:
        self._runner.close()


class ProbedSession(Session):
    """A `Session` on its bundle's graphs, or on other runners with the same contract."""

    def __init__(
        self, bundle: Path, vision: Runner | None = None, decoder: Runner | None = None
    ) -> None:
        super().__init__(bundle, vision=vision, decoder=decoder)
        self._recorder = _Recorder(self._decoder_runner)
        self._decoder = Decoder(self._recorder, self.bundle.manifest.decoder)

    def trace(self, sample: Sample) -> Trace:
        """Ask, and keep what the decoder read and said."""
        self._recorder.logits.clear()
        answer = self.ask(
            sample.frame, sample.text, mode=sample.mode, max_new_tokens=MAX_NEW_TOKENS
        )
        logits = dict(self._recorder.logits)
        return Trace(answer, tuple(self._recorder.ids), min(logits), logits)


def trace_all(session: ProbedSession, samples: Iterable[Sample]) -> list[Trace]:
    """Ask everything, then close the session."""
    with session:
        return [session.trace(sample) for sample in samples]
