"""How long an answer takes: cold start, a new frame, a second question, and torch beside it.

python bench/latency.py [--bundle default] [--checkpoint models/nano] [--rounds 20]

The shipped bundle and the torch model answer the same questions in alternation, so that a machine
whose speed drifts is fair to both. Prints medians, p95 and ratios.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edge_mm.demo.questions import shipped_frames
from edge_mm_runtime import Session
from edge_mm_runtime.image import read_image

QUESTIONS = ("find the bottle", "is there a cup?", "how many bottles are there?")


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--checkpoint", type=Path, default=Path("models/nano"))
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    from edge_mm.model.session import open_checkpoint

    pictures = sorted(shipped_frames().glob("*.jpg"))
    cold = [cold_start(arguments.bundle, pictures[0]) for _ in range(5)]
    frames = [read_image(path) for path in pictures]
    first: dict[str, list[float]] = {"bundle": [], "torch": []}
    second: list[float] = []
    with Session(arguments.bundle) as bundle, open_checkpoint(arguments.checkpoint) as torch_model:
        sessions = {"bundle": bundle, "torch": torch_model}
        for number in range(-3, arguments.rounds):  # three to warm up
            frame = frames[number % len(frames)]
            for name, session in sessions.items():
                timed = [milliseconds(session, frame, text) for text in QUESTIONS]
                if number >= 0:
                    first[name].append(timed[0])
                    second += timed[1:] if name == "bundle" else []
    print("| what | median | p95 |\n|---|---|---|")
    for label, values in (
        ("cold start to answer, process included, s", cold),
        ("new frame to answer, ms", first["bundle"]),
        ("second question on the frame, ms", second),
        ("new frame to answer, torch fp32, ms", first["torch"]),
    ):
        print(f"| {label} | {np.median(values):.2f} | {np.percentile(values, 95):.2f} |")
    ratio = np.median(np.array(first["bundle"]) / np.array(first["torch"]))
    print(f"\nbundle / torch fp32: {ratio:.2f}")


def cold_start(bundle: str, picture: Path) -> float:
    """Seconds of a whole `edge-mm ask` process."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "edge_mm.cli", "ask", picture, QUESTIONS[0], "--bundle", bundle],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - started


def milliseconds(session: Session, frame: np.ndarray, text: str) -> float:
    started = time.perf_counter()
    session.ask(frame, text)
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
