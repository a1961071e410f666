"""Engines under measurement, each in a process of its own, asked in turn.

Own processes give each engine its own peak memory and its own packages (a peer runs in its own
environment, so this file imports the standard library and numpy alone); turns give all of them the
same share of a noisy machine. A worker reads requests and writes answers, one JSON object a line:

    {"prefill": 256}                    -> {"answer": ms of a prompt of 256 new tokens}
    {"decode": 128, "context": 300}     -> {"answer": ms of 128 single steps after a prompt of 300}
    {"continue": [ids], "tokens": 64}   -> {"answer": the ids that follow, greedily, past any end}
    {"memory": true}                    -> {"answer": MB, peak of resident memory}

A worker of something else than text answers requests of its own with `serve`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

FIRST = 1
"""The id that every prompt of SmolLM2 begins with: <|im_start|>."""

REPLIES_TO = "BENCH_ANSWER "  # what begins an answer; engines write to standard output as well


_SILENT = os.environ | {"CI": "true"}  # in which OpenVINO's telemetry sends nothing


class Worker:
    """A context manager around a worker's process."""

    def __init__(self, command: Sequence[str], first: dict[str, Any] | None = None) -> None:
        """Starts it and asks `first`, by default for one token: `cold_start_s` is until then."""
        started = time.perf_counter()
        self._script = next((Path(word).name for word in command if word.endswith(".py")), "it")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=_SILENT
        )
        self.ask(first or {"prefill": 1})
        self.cold_start_s = time.perf_counter() - started

    def ask(self, request: dict[str, Any]) -> Any:
        """What answers a request: a number, or a list of ids; RuntimeError if the worker died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(REPLIES_TO):
                return json.loads(line.removeprefix(REPLIES_TO))["answer"]
        raise RuntimeError(f"{self._script} ended with {self._process.wait()}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input: it ends


class TextEngine:
    """What a worker of text wraps around an engine: one text at a time, the greedy next token."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._rng = np.random.default_rng(0)
        self._prompts = 0

    def read(self, ids: list[int]) -> int:
        """Forget the last text and read this one in one pass; the token that follows it."""
        raise NotImplementedError

    def step(self, token: int) -> int:
        """Read one token more; the token that follows it."""
        raise NotImplementedError

    def prefill_ms(self, tokens: int) -> float:
        """Time of a new prompt, up to the choice of its first token."""
        ids = self.new_prompt(tokens)
        started = time.perf_counter()
        self.read(ids)
        return (time.perf_counter() - started) * 1e3

    def decode_ms(self, tokens: int, context: int) -> float:
        """Time of single steps after a new prompt."""
        token = self.read(self.new_prompt(context))
        started = time.perf_counter()
        for _ in range(tokens):
            token = self.step(token)
        return (time.perf_counter() - started) * 1e3

    def continuation(self, ids: list[int], tokens: int) -> list[int]:
        """Greedily; an end of text does not end it."""
        found = [self.read(ids)]
        while len(found) < tokens:
            found.append(self.step(found[-1]))
        return found

    def new_prompt(self, tokens: int) -> list[int]:
        """The id that every prompt begins with, one that is new in this place, and random ones.

        No cache of prefixes can help with more than the first.
        """
        self._prompts += 1
        rest = self._rng.integers(0, self._vocab_size, tokens).tolist()
        return [FIRST, self._prompts, *rest][:tokens]


def serve_text(engine: TextEngine) -> None:
    """The worker's side for text: answer the requests above until the input ends."""

    def answer(request: dict[str, Any]) -> Any:
        match request:
            case {"prefill": tokens}:
                return engine.prefill_ms(tokens)
            case {"decode": tokens, "context": context}:
                return engine.decode_ms(tokens, context)
            case {"continue": ids, "tokens": tokens}:
                return engine.continuation(ids, tokens)
        raise ValueError(f"no request of text: {request}")

    serve(answer)


def serve(answer: Callable[[dict[str, Any]], Any]) -> None:
    """Answer each request with what `answer` makes of it; `memory` is answered for all alike."""
    for line in sys.stdin:
        request = json.loads(line)
        found = peak_memory() / 1e6 if "memory" in request else answer(request)
        print(REPLIES_TO + json.dumps({"answer": found}), flush=True)


def peak_memory() -> int:
    """Bytes; getrusage would count what the parent held when it started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kibibytes) * 1024
