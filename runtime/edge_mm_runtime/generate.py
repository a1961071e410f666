"""The decode loop: ids and logits in, ids out. It knows neither text nor pictures nor places.

Greedy. Ids that have no alternative under the constraint, and ids that the guide forces (the
locations of a place that it pointed at), are appended without a pass of their own: each pass of
the decoder ends where a choice must be made.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.answer import FinishReason
from edge_mm_runtime.decoder import Decoder, Position

Allowed = npt.NDArray[np.bool_]


class Constraint(Protocol):
    """Which ids may come next."""

    def allowed(self) -> Allowed:
        """[V], at least one of them True."""

    def accept(self, token: int) -> None:
        """Go on after `token`, an allowed one."""


class Guide(Protocol):
    """Chooses ids, and may point after some of them."""

    def choose(self, logits: npt.NDArray[np.float32], index: int) -> int:
        """The next id. logits [V] are -inf where not allowed; index counts from 0."""

    def points_after(self, token: int) -> bool:
        """Whether `point` must be asked right after this id."""

    def point(self, token: int, position: Position) -> Sequence[int]:
        """The ids that follow `token` without a choice."""


class Generation(NamedTuple):
    """What the loop made; ids are without the stop id."""

    ids: list[int]
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float


def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    constraint: Constraint,
    guide: Guide,
    stop_ids: Collection[int],
    max_new_tokens: int,
    deadline_s: float | None = None,
) -> Generation:
    """Answer a prompt. deadline_s is on time.perf_counter's clock, looked at before every pass."""
    started = time.perf_counter()
    if _late(deadline_s):
        return Generation([], "timeout", 0.0, 0.0)
    position = decoder.prefill(prompt)
    prefilled = time.perf_counter()
    ids: list[int] = []
    reason = _decode(
        decoder, position, ids, constraint, guide, stop_ids, max_new_tokens, deadline_s
    )
    decode_ms = (time.perf_counter() - prefilled) * 1e3
    return Generation(ids, reason, (prefilled - started) * 1e3, decode_ms)


def _decode(
    decoder: Decoder,
    position: Position,
    ids: list[int],
    constraint: Constraint,
    guide: Guide,
    stop_ids: Collection[int],
    max_new_tokens: int,
    deadline_s: float | None,
) -> FinishReason:
    while True:
        allowed = constraint.allowed()
        token = guide.choose(np.where(allowed, position.logits, -np.inf), len(ids))
        waiting: list[int] = []  # accepted, not yet seen by the decoder
        while True:
            if token in stop_ids:
                return "stop"
            if len(ids) >= max_new_tokens or decoder.room <= len(waiting):
                return "length"
            constraint.accept(token)
            waiting.append(token)
            ids.append(token)
            if guide.points_after(token):
                if _late(deadline_s):
                    return "timeout"
                forced = guide.point(token, decoder.extend(waiting))
                for token in forced:
                    constraint.accept(token)
                ids += forced
                waiting = list(forced)
                if len(waiting) > decoder.room:
                    return "length"
            options = np.flatnonzero(constraint.allowed())
            if len(options) != 1:
                break
            token = int(options[0])
        if _late(deadline_s):
            return "timeout"
        position = decoder.extend(waiting)


def _late(deadline_s: float | None) -> bool:
    return deadline_s is not None and time.perf_counter() >= deadline_s
