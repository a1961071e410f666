"""`edge-mm bench`: how long an answer takes on this machine, part by part."""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mm_runtime.commands.options import add_session_options
from edge_mm_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_mm_runtime.answer import Answer
    from edge_mm_runtime.image import Frame
    from edge_mm_runtime.measure import Latency
    from edge_mm_runtime.session import Session

WARM_UP = 3
SECOND = "is there a cup?"


def main(argv: list[str]) -> int:
    """Measure and print; returns the exit code."""
    args = _parse(argv)
    from edge_mm_runtime.measure import latency, peak_memory_bytes
    from edge_mm_runtime.power import EnergyMeter
    from edge_mm_runtime.session import Session
    from edge_mm_runtime.sources import open_source

    with ExitStack() as stack:
        session = stack.enter_context(
            Session(args.bundle, threads=args.threads, device=args.device)
        )
        source = (
            stack.enter_context(open_source(args.source, real_time=True)) if args.source else None
        )
        frames = _frames(args.picture, session)
        for frame in islice(cycle(frames), WARM_UP):
            _question_pair(session, frame, args.text)
        with EnergyMeter() as meter:
            pairs = [
                _question_pair(session, frame, args.text)
                for frame in islice(cycle(frames), args.rounds)
            ]
        durations = _parts(pairs)
        if source is not None:
            durations["camera to answer"] = _ages(session, source, args.text, args.seconds)
    found = {name: latency(values) for name, values in durations.items()}
    joules = None if meter.joules is None else meter.joules / (2 * len(pairs))
    peak = peak_memory_bytes()
    if args.json:
        print(
            json.dumps(
                {
                    "latency_ms": {
                        name: item and {k: round(v, 3) for k, v in item._asdict().items()}
                        for name, item in found.items()
                    },
                    "peak_memory_bytes": peak,
                    "joules_per_answer": joules,
                }
            )
        )
    else:
        print(_table(found))
        energy = "" if joules is None else f", {joules:.2f} J an answer (whole board)"
        print(f"peak memory {peak / 1e6:.0f} MB{energy}")
    return 0


def _question_pair(session: Session, frame: Frame, text: str) -> tuple[Answer, Answer]:
    """A question about a new frame, and a second one about the same frame."""
    return session.ask(frame, text), session.ask(frame, SECOND)


def _parts(pairs: list[tuple[Answer, Answer]]) -> dict[str, list[float]]:
    """Durations in milliseconds, of each part of the first answers and of both as a whole."""
    firsts = [first for first, _ in pairs]
    parts = {
        part: [answer.timings_ms[part] for answer in firsts]
        for part in ("image", "vision", "prefill", "decode")
    }
    parts["decoder pass"] = [
        answer.timings_ms["decode"] / (answer.work.decoder_passes - 1)
        for answer in firsts
        if answer.work is not None and answer.work.decoder_passes > 1
    ]
    parts["new frame to answer"] = [answer.timings_ms["total"] for answer in firsts]
    parts["second question"] = [second.timings_ms["total"] for _, second in pairs]
    return parts


def _ages(session: Session, source: object, text: str, seconds: float) -> list[float]:
    """Milliseconds from the capture of a frame to its answer, over `seconds` of a live source."""
    ages: list[float] = []
    stop = time.monotonic() + seconds
    for grab in source:  # type: ignore[attr-defined]
        answer = session.ask(grab.frame, text, timestamp_s=grab.timestamp_s)
        ages.append(1e3 * (answer.age_s or 0.0))
        if time.monotonic() >= stop:
            break
    return ages


def _frames(picture: Path | None, session: Session) -> list[Frame]:
    """Pictures to ask about: yours, or those of the bundle's references.

    Each is followed by its mirror image, so that a new frame is new even where there is one.
    """
    from edge_mm_runtime.image import read_image
    from edge_mm_runtime.references import FOLDER

    paths = [picture] if picture else sorted((session.bundle.folder / FOLDER).glob("*.png"))
    if not paths:
        raise UsageError(f"{session.bundle.folder} holds no picture: give one with --picture")
    return [frame for path in paths for frame in _and_mirrored(read_image(path))]


def _and_mirrored(frame: Frame) -> tuple[Frame, Frame]:
    return frame, frame[:, ::-1].copy()


def _table(found: dict[str, Latency | None]) -> str:
    lines = [f"{'ms':<20} {'p50':>8} {'p95':>8} {'p99':>8}"]
    lines += [
        f"{name:<20} {item.p50:8.2f} {item.p95:8.2f} {item.p99:8.2f}"
        for name, item in found.items()
        if item is not None
    ]
    return "\n".join(lines)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm bench",
        description="Measure the parts of an answer on this machine: picture, vision, prefill, "
        "decode, whole answers; with --source also from the camera to the answer.",
    )
    add_session_options(parser)
    parser.add_argument("--text", default="find the red cup", help="the first question")
    parser.add_argument(
        "--picture", type=Path, help="ask about this one (default: the bundle's references)"
    )
    parser.add_argument("--source", help="also from this camera or video, at its own pace")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long from --source (10)")
    parser.add_argument("--rounds", type=int, default=40, help="frames to ask about (40)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    if not args.seconds > 0:
        parser.error("--seconds must be more than 0")
    return args
