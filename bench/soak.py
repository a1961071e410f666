"""Does anything grow? The shipped model watches a video for half an hour, at its own rate.

python bench/soak.py [--minutes 30] [--video examples/frames/bottle-detection.mp4]

Each second: resident memory, threads, open files. Fails when the last quarter holds more than 2 %
more memory than the first, or more threads or files. Every captured frame must be shown or counted
as dropped.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edge_mm_runtime import Session
from edge_mm_runtime.image import Frame
from edge_mm_runtime.measure import Held, held, latency
from edge_mm_runtime.sources import open_source
from edge_mm_runtime.watch import watch

GROWTH = 1.02
WARM_UP_S = 10.0
WAITING = 2  # frames that may be on their way when it stops


def main() -> int:
    """Watch, sample, compare; 1 where something grew or a frame is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--video", type=Path, default=Path("examples/frames/bottle-detection.mp4"))
    parser.add_argument("--text", default="find the bottle")
    arguments = parser.parse_args()
    samples: list[Held] = []
    ages: list[float] = []
    shown = before_first = 0
    with open_source(str(arguments.video)) as file:
        rate = file.frames_per_s or 30.0
    endless = over_and_over(arguments.video, rate)
    with open_source(endless, real_time=True, frames_per_s=rate) as source, Session() as session:
        started = time.monotonic()
        next_sample = started + WARM_UP_S
        for look in watch(source, arguments.text, session):
            if not shown:
                before_first = source.stats().given - 1
            shown += not look.again
            if look.fresh and look.answer.age_s is not None:
                ages.append(1e3 * look.answer.age_s)
            now = time.monotonic()
            if now >= next_sample:
                samples.append(held())
                next_sample = now + 1.0
            if now - started >= 60 * arguments.minutes:
                break
        seconds = time.monotonic() - started
        stats = source.stats()
    missing = stats.captured - stats.dropped - before_first - shown
    answers = latency(ages)
    assert answers is not None, "no answer came"
    print(
        f"{stats.captured} frames in {seconds:.0f} s: {shown + before_first} given, "
        f"{stats.dropped} dropped; {answers.n} answers, camera to answer p50 "
        f"{answers.p50:.0f}, p95 {answers.p95:.0f}, p99 {answers.p99:.0f} ms"
    )
    print("\n| | first quarter | last quarter | ratio |\n|---|---|---|---|")
    grown = [
        name
        for name, limit in (("memory_bytes", GROWTH), ("threads", 1.0), ("files", 1.0))
        if not flat(name, samples, limit)
    ]
    if grown or not 0 <= missing <= WAITING:
        print(f"FAILED: grew: {', '.join(grown) or 'nothing'}; {missing} frames missing")
        return 1
    return 0


def over_and_over(path: Path, rate: float) -> Iterator[Frame]:
    """The frames of a video for ever, at its rate."""
    due = time.monotonic()
    while True:
        with open_source(str(path)) as source:
            for grab in source:
                time.sleep(max(0.0, due - time.monotonic()))
                due = max(due + 1 / rate, time.monotonic() - 1.0)
                yield grab.frame


def flat(name: str, samples: list[Held], limit: float) -> bool:
    """Print the medians of the first and the last quarter; whether their ratio is within limit."""
    quarter = max(1, len(samples) // 4)
    first, last = (
        statistics.median(getattr(sample, name) for sample in part)
        for part in (samples[:quarter], samples[-quarter:])
    )
    print(f"| {name} | {first:.0f} | {last:.0f} | {last / first:.4f} |")
    return last <= limit * first


if __name__ == "__main__":
    sys.exit(main())
