"""Engines under measurement, each in a process of its own, asked in turn.

Own processes give each engine its own peak memory and its own packages (a peer runs in its own
environment); turns give all of them the same share of a noisy machine. A worker reads requests and
writes answers, one JSON object a line:

    {"prefill": 256}                 -> {"ms": time of a prompt of 256 new tokens}
    {"decode": 128, "context": 300}  -> {"ms": time of 128 single steps after a prompt of 300}
    {"memory": true}                 -> {"mb": peak of resident memory}
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

REPLIES_TO = "BENCH_ANSWER "  # what begins an answer; engines write to standard output as well


class Worker:
    """A context manager around a worker's process."""

    def __init__(self, command: Sequence[str]) -> None:
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask({"prefill": 1})
        self.cold_start_s = time.perf_counter() - started

    def ask(self, request: dict[str, Any]) -> float:
        """The one number that answers a request; RuntimeError if the worker has died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith(REPLIES_TO):
                (number,) = json.loads(line.removeprefix(REPLIES_TO)).values()
                return float(number)
        raise RuntimeError(f"{self._process.args!r} ended with {self._process.wait()}")

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # closes its input: it ends


def serve(prefill: Callable[[int], np.ndarray], decode: Callable[[np.ndarray, int], None]) -> None:
    """The worker's side: answer requests until the input ends.

    prefill(tokens) reads a new prompt and gives its logits, decode(logits, tokens) continues it.
    """
    for line in sys.stdin:
        match json.loads(line):
            case {"prefill": tokens}:
                answer = {"ms": _milliseconds(prefill, tokens)}
            case {"decode": tokens, "context": context}:
                logits = prefill(context)
                answer = {"ms": _milliseconds(decode, logits, tokens)}
            case _:
                answer = {"mb": _peak_memory() / 1e6}
        print(REPLIES_TO + json.dumps(answer), flush=True)


def _milliseconds(work: Callable[..., object], *given: object) -> float:
    started = time.perf_counter()
    work(*given)
    return (time.perf_counter() - started) * 1e3


def _peak_memory() -> int:
    """Bytes; getrusage would count what the parent held when it started this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kibibytes) * 1024
