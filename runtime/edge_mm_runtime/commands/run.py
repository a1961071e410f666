"""`edge-mm run --source S TEXT`: the same question about a stream, its answers tracked."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edge_mm_runtime.answer import MODES, Answer
from edge_mm_runtime.commands.options import add_session_options
from edge_mm_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_mm_runtime.measure import Latency
    from edge_mm_runtime.session import Session
    from edge_mm_runtime.sources import Source
    from edge_mm_runtime.watch import Look

PICTURES_PER_S = 2.0  # of a saved video made of single pictures
LIVE_PER_S = 30.0  # of a saved video made from a camera that does not say its own rate
LEAST_SHOWN = 40  # characters of an answer; on a narrow terminal the numbers are cut
KEPT = 1000  # latencies that the percentiles are taken of


def main(argv: list[str]) -> int:
    """Answer until the source ends, --max-frames, --seconds or Ctrl-C; returns the exit code."""
    args = _parse(argv)
    from edge_mm_runtime.draw import draw_answer
    from edge_mm_runtime.film import Film, Window
    from edge_mm_runtime.prompt import clean
    from edge_mm_runtime.session import Session
    from edge_mm_runtime.sources import open_source

    clean(args.text)  # an empty text is told before a camera is opened
    with ExitStack() as stack:
        session = stack.enter_context(
            Session(args.bundle, threads=args.threads, device=args.device)
        )
        # After the session: a live source drops what comes while the model is loaded.
        source = stack.enter_context(open_source(args.source, real_time=args.real_time))
        log = stack.enter_context(_open_log(args.jsonl)) if args.jsonl else None
        rate = source.frames_per_s or (LIVE_PER_S if source.live else PICTURES_PER_S)
        shown = [stack.enter_context(Film(args.save, rate))] if args.save else []
        window = stack.enter_context(Window(f"edge-mm: {args.text}")) if args.display else None
        progress = Progress(source)
        try:
            for look in _until(args, _looks(args, source, session)):
                progress.take(look)
                if log:
                    log.write(json.dumps(_record(look)) + "\n")
                if shown or window:
                    picture = draw_answer(look.grab.frame, look.answer)
                    for film in shown:
                        film.write(picture, look.grab.timestamp_s)
                    if window and not window.show(picture):
                        break
        except KeyboardInterrupt:
            pass
        print(_clear() + progress.summary(), file=sys.stderr)
    return 0


def _looks(args: argparse.Namespace, source: Source, session: Session) -> Iterator[Look]:
    """Looks at a stream; single pictures have nothing to do with each other and are only asked."""
    from edge_mm_runtime.watch import Look, watch

    if source.live or source.frames_per_s:
        yield from watch(
            source, args.text, session, mode=args.mode, answer_every_s=args.answer_every
        )
        return
    for grab in source:
        answer = session.ask(grab.frame, args.text, mode=args.mode, frame_id=grab.frame_id)
        yield Look(grab=grab, answer=answer, fresh=True, lost=())


def _until(args: argparse.Namespace, looks: Iterator[Look]) -> Iterator[Look]:
    """The looks up to --max-frames and --seconds; a frame may have two."""
    stop = None if args.seconds is None else time.monotonic() + args.seconds
    frames = 0
    for look in looks:
        frames += not look.again
        yield look
        if frames == args.max_frames or (stop is not None and time.monotonic() >= stop):
            return


class Progress:
    """The line that people see while it runs, and the one that they see at the end."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._started = time.perf_counter()
        self._frames = self._answers = self._before = 0
        self._latencies: deque[float] = deque(maxlen=KEPT)
        self._latency: Latency | None = None

    def take(self, look: Look) -> None:
        """Count a look; show it on a terminal, where it replaces the last one, or if it is new."""
        from edge_mm_runtime.measure import latency

        if not self._frames:
            self._before = self._source.stats().given - 1
        self._frames += not look.again
        if look.fresh:
            self._answers += 1
            # From the camera to the answer; a file waits for it, and has no other time than that.
            live, answer = self._source.live, look.answer
            self._latencies.append(
                1e3 * answer.age_s if live and answer.age_s else answer.timings_ms["total"]
            )
            self._latency = latency(list(self._latencies))
        if look.fresh or sys.stdout.isatty():
            tail = "" if sys.stdout.isatty() else "\n"
            print(f"{_clear()}{self._line(look)}", end=tail, flush=True)

    def summary(self) -> str:
        """Frames and answers, the latency from the camera to the answer, what was dropped."""
        stats = self._source.stats()
        seconds = time.perf_counter() - self._started
        parts = [
            f"{stats.captured} frames in {seconds:.1f} s",
            f"{self._frames} shown",
            f"{stats.dropped} dropped",
            f"{self._answers} answers ({self._answers / max(seconds, 1e-9):.1f}/s)",
        ]
        if self._before:
            parts.append(f"{self._before} before the first answer")
        found = self._latency
        if found is not None:
            what = "camera to answer" if self._source.live else "answer"
            parts.append(f"{what} p50 {found.p50:.0f} p95 {found.p95:.0f} p99 {found.p99:.0f} ms")
        parts += [f"{count} x {kind}" for kind, count in stats.faults.items()]
        if stats.reconnects:
            parts.append(f"{stats.reconnects} reconnects")
        return ", ".join(parts)

    def _line(self, look: Look) -> str:
        stats = self._source.stats()
        parts = [] if stats.fps is None else [f"{stats.fps:.0f} fps"]
        seconds = time.perf_counter() - self._started
        parts.append(f"{self._answers / max(seconds, 1e-9):.1f} answers/s")
        if self._latency is not None:
            parts.append(f"p50 {self._latency.p50:.0f} p95 {self._latency.p95:.0f} ms")
        parts.append(f"{stats.dropped} dropped")
        if look.answer.age_s is not None:
            parts.append(f"{1e3 * look.answer.age_s:.0f} ms old")
        answer, numbers = f"{look.grab.frame_id}  {_told(look.answer)}", " | " + ", ".join(parts)
        if not sys.stdout.isatty():
            return answer + numbers
        # A line that wraps could not be replaced by the next one.
        most = shutil.get_terminal_size().columns - 1
        return (answer[: max(LEAST_SHOWN, most - len(numbers))] + numbers)[:most]


def _told(answer: Answer) -> str:
    """An answer in one line: its words, the place, number and confidence of each object."""
    places = (
        f"[{' '.join(f'{value:.0f}' for value in item.box_xyxy or item.point_xy or ())}]"
        f" {'' if item.track_id is None else f'#{item.track_id} '}{item.confidence:.2f}"
        for item in answer.objects
    )
    return " ".join([answer.text, *places])


def _clear() -> str:
    return "\r\x1b[2K" if sys.stdout.isatty() else ""


def _record(look: Look) -> dict[str, Any]:
    """One line of --jsonl: the answer as `edge-mm ask --json` prints it, in its place in time."""
    return {
        "frame_id": look.grab.frame_id,
        "timestamp_s": look.grab.timestamp_s,
        "asked_frame_id": look.answer.frame_id,
        "age_s": look.answer.age_s,
        "fresh": look.fresh,
        "lost": look.lost,
        **look.answer.to_dict(),
    }


def _open_log(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm run",
        description="Ask the same question of a camera, stream or video as it goes on, and follow "
        "what is found through every frame; of a folder, ask about each picture.",
        epilog="example: edge-mm run --source 0 'find the red cup' --save out.mp4",
    )
    parser.add_argument("text", metavar="TEXT", help="what to find, point at, tell or do")
    parser.add_argument(
        "--source",
        required=True,
        help="camera index or /dev/video0, csi://0, GStreamer pipeline, URL, video file, folder, "
        "'pattern*.jpg'",
    )
    add_session_options(parser)
    parser.add_argument("--mode", choices=MODES, default="auto", help="kind of answer (auto)")
    parser.add_argument(
        "--answer-every",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds between two questions (0: as often as the model can; of a file, each frame)",
    )
    parser.add_argument(
        "--real-time", action="store_true", help="play a video at its own rate, as a camera would"
    )
    parser.add_argument("--display", action="store_true", help="show a window; q or Esc ends")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write an annotated video")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write one JSON line a look")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--seconds", type=float, metavar="S", help="stop after S seconds")
    args = parser.parse_args(argv)
    if args.max_frames is not None and args.max_frames < 1:
        parser.error("--max-frames must be at least 1")
    if args.seconds is not None and not args.seconds > 0:
        parser.error("--seconds must be more than 0")
    if not args.answer_every >= 0:
        parser.error("--answer-every must be 0 or more")
    return args
