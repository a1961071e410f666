"""What is asked of a session, checked before anything is done for it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from numbers import Integral

from edge_mm_runtime.answer import MODES, Mode
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.sampling import Pick, open_pick


@dataclass(frozen=True, kw_only=True)
class Question:
    """The keywords of `Session.ask`, which documents them. UsageError for a bad one."""

    text: str
    mode: Mode = "auto"
    max_new_tokens: int = 128
    timeout_s: float | None = None
    temperature: float = 0.0
    seed: int | None = None
    evidence: bool = False
    frame_id: int | str | None = None
    timestamp_s: float | None = None
    cancel: threading.Event | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise UsageError(
                f"the text is {type(self.text).__name__}: give words, e.g. 'find the red cup'"
            )
        if self.mode not in MODES:
            raise UsageError(f"unknown mode {self.mode!r}: one of {', '.join(MODES)}")
        if not isinstance(self.max_new_tokens, Integral) or self.max_new_tokens < 1:
            raise UsageError(
                f"max_new_tokens is {self.max_new_tokens!r}: give at least 1, a whole number"
            )
        late = self.timeout_s
        if late is not None and (math.isnan(late) or late < 0):
            raise UsageError(f"timeout_s is {late}: give 0 or more seconds, or None for no limit")
        self.pick()

    def pick(self) -> Pick:
        """How ids are picked: a fresh generator for each answer, so that a seed repeats it."""
        return open_pick(self.temperature, self.seed)
