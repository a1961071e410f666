"""The decode loop: ids and logits in, ids out. It knows neither text nor pictures nor places.

Ids that have no alternative under the constraint, and ids that the guide forces (the locations of
a place that it pointed at), are appended without a pass of their own: each pass of the decoder
ends where a choice must be made. Between two passes the loop looks whether it is to stop, and
tells what it has so far.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.answer import FinishReason
from edge_mm_runtime.decoder import Decoder, Position

Allowed = npt.NDArray[np.bool_]
Interrupted = Callable[[], FinishReason | None]


class Constraint(Protocol):
    """Which ids may come next."""

    def allowed(self) -> Allowed:
        """[V], at least one of them True."""

    def accept(self, token: int) -> None:
        """Go on after `token`, an allowed one."""


@runtime_checkable
class FastForward(Protocol):
    """A constraint that also knows ids ahead, which spares the question for each of them."""

    def forced(self) -> Sequence[int]:
        """Ids that come next without an alternative, in order; [] where it knows of none."""


class Guide(Protocol):
    """Chooses ids, and may point after some of them."""

    def choose(self, logits: npt.NDArray[np.float32], index: int) -> int:
        """The next id. logits [V] are -inf where not allowed; index counts from 0."""

    def points_after(self, token: int) -> bool:
        """Whether `point` must be asked right after this id."""

    def point(self, token: int, position: Position) -> Sequence[int]:
        """The ids that follow `token` without a choice."""


class Generation(NamedTuple):
    """What the loop made; ids are without the stop id. finish_reason "partial": more follows."""

    ids: list[int]
    finish_reason: FinishReason
    prefill_ms: float
    decode_ms: float


def never() -> None:
    """An `interrupted` that lets the loop run to its end."""


def generate(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    constraint: Constraint,
    guide: Guide,
    stop_ids: Collection[int],
    max_new_tokens: int,
    interrupted: Interrupted = never,
) -> Generation:
    """Answer a prompt: the last of `generate_partly`."""
    *_, made = generate_partly(
        decoder,
        prompt,
        constraint=constraint,
        guide=guide,
        stop_ids=stop_ids,
        max_new_tokens=max_new_tokens,
        interrupted=interrupted,
    )
    return made


def generate_partly(
    decoder: Decoder,
    prompt: Sequence[int],
    *,
    constraint: Constraint,
    guide: Guide,
    stop_ids: Collection[int],
    max_new_tokens: int,
    interrupted: Interrupted = never,
) -> Iterator[Generation]:
    """Answer a prompt: what there is before each pass, finish_reason "partial", then all of it.

    interrupted is asked before every pass; what it says other than None ends the answer.
    """
    started = time.perf_counter()
    if reason := interrupted():
        yield Generation([], reason, 0.0, 0.0)
        return
    position = decoder.prefill(prompt)
    prefilled = time.perf_counter()
    ids: list[int] = []
    for reason in _decode(
        decoder, position, ids, constraint, guide, stop_ids, max_new_tokens, interrupted
    ):
        decode_ms = (time.perf_counter() - prefilled) * 1e3
        yield Generation(list(ids), reason, (prefilled - started) * 1e3, decode_ms)


def _decode(
    decoder: Decoder,
    position: Position,
    ids: list[int],
    constraint: Constraint,
    guide: Guide,
    stop_ids: Collection[int],
    max_new_tokens: int,
    interrupted: Interrupted,
) -> Iterator[FinishReason]:
    """Append to `ids`; "partial" before each pass that follows a choice, then why it ended."""
    forward = constraint if isinstance(constraint, FastForward) else None
    allowed = constraint.allowed()
    while True:
        logits = np.where(allowed, position.logits, -np.inf)
        ahead = [guide.choose(logits, len(ids))]
        waiting: list[int] = []  # accepted, not yet seen by the decoder
        while ahead:
            token = ahead.pop(0)
            if token in stop_ids:
                yield "stop"
                return
            if len(ids) >= max_new_tokens or decoder.room <= len(waiting):
                yield "length"
                return
            constraint.accept(token)
            waiting.append(token)
            ids.append(token)
            if guide.points_after(token):
                if reason := interrupted():
                    yield reason
                    return
                pointed = guide.point(token, decoder.extend(waiting))
                for token in pointed:
                    constraint.accept(token)
                ids += pointed
                waiting, ahead = list(pointed), []
                if len(waiting) > decoder.room:
                    yield "length"
                    return
            if not ahead and forward is not None:
                ahead = list(forward.forced())
            if not ahead:
                allowed = constraint.allowed()
                ahead = _without_a_choice(allowed)
        yield "partial"
        if reason := interrupted():
            yield reason
            return
        position = decoder.extend(waiting)


def _without_a_choice(allowed: Allowed) -> list[int]:
    """The only id that is allowed; none where there is a choice."""
    return [int(allowed.argmax())] if np.count_nonzero(allowed) == 1 else []
