"""`edge-mm run --source S TEXT`: the same question about frame after frame."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edge_mm_runtime.answer import MODES, Answer
from edge_mm_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_mm_runtime.image import Frame
    from edge_mm_runtime.sources import Grab

PICTURES_PER_S = 2.0  # of a saved video made of single pictures
LIVE_PER_S = 10.0  # of a saved video made from a camera


def main(argv: list[str]) -> int:
    """Answer until the source ends, --max-frames or Ctrl-C; returns the exit code."""
    args = _parse(argv)
    from edge_mm_runtime.draw import draw_answer
    from edge_mm_runtime.prompt import clean
    from edge_mm_runtime.session import Session
    from edge_mm_runtime.sources import open_source

    clean(args.text)  # an empty text is told before a camera is opened
    count, started = 0, time.perf_counter()
    with ExitStack() as stack:
        source = stack.enter_context(open_source(args.source))
        session = stack.enter_context(Session(args.bundle, threads=args.threads))
        log = stack.enter_context(_open_log(args.jsonl)) if args.jsonl else None
        rate = source.frames_per_s or (LIVE_PER_S if source.live else PICTURES_PER_S)
        film = stack.enter_context(Film(args.save, rate)) if args.save else None
        try:
            for grab in islice(source, args.max_frames):
                answer = session.ask(
                    grab.frame,
                    args.text,
                    mode=args.mode,
                    frame_id=grab.frame_id,
                    timestamp_s=grab.timestamp_s if source.live else None,
                )
                _show(grab, answer)
                if log:
                    log.write(json.dumps(_record(grab, answer)) + "\n")
                if film:
                    film.write(draw_answer(grab.frame, answer))
                count += 1
        except KeyboardInterrupt:
            pass
    seconds = time.perf_counter() - started
    print(f"{_clear()}{count} frames in {seconds:.1f} s", file=sys.stderr)
    return 0


class Film:
    """A video file of pictures; all take the size of the first one."""

    def __init__(self, path: Path, frames_per_s: float) -> None:
        self.path = path
        self._frames_per_s = frames_per_s
        self._writer: Any = None
        self._size = (0, 0)

    def __enter__(self) -> Film:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, picture: Frame) -> None:
        """Append a BGR picture; UsageError when the file cannot be written."""
        from edge_mm_runtime.extras import require

        cv2 = require("cv2", "cpu")
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            codec = cv2.VideoWriter_fourcc(*("MJPG" if self.path.suffix == ".avi" else "mp4v"))
            self._writer = cv2.VideoWriter(str(self.path), codec, self._frames_per_s, self._size)
            if not self._writer.isOpened():
                raise UsageError(
                    f"cannot write {self.path}: use a name that ends in .mp4 or .avi, in a folder "
                    "that exists and may be written"
                )
        if (picture.shape[1], picture.shape[0]) != self._size:
            picture = cv2.resize(picture, self._size)
        self._writer.write(picture)


def _show(grab: Grab, answer: Answer) -> None:
    """One line for each answer; on a terminal it replaces the last one."""
    places = " ".join(
        f"[{' '.join(f'{value:.0f}' for value in item.box_xyxy or item.point_xy or ())}]"
        f" {item.confidence:.2f}"
        for item in answer.objects
    )
    line = f"{grab.frame_id}  {answer.text} {places} {answer.timings_ms['total']:.0f} ms"
    print(f"{_clear()}{line}", end="" if sys.stdout.isatty() else "\n", flush=True)


def _clear() -> str:
    return "\r\x1b[2K" if sys.stdout.isatty() else ""


def _record(grab: Grab, answer: Answer) -> dict[str, Any]:
    return {
        "frame_id": grab.frame_id,
        "timestamp_s": grab.timestamp_s,
        "age_s": answer.age_s,
        **answer.to_dict(),
    }


def _open_log(path: Path) -> IO[str]:
    try:
        return path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm run",
        description="Ask the same question about the newest frame of a camera, or every frame "
        "of a video or folder.",
        epilog="example: edge-mm run --source 0 'find the red cup' --save out.mp4",
    )
    parser.add_argument("text", metavar="TEXT", help="what to find, point at, tell or do")
    parser.add_argument(
        "--source", required=True, help="camera index, video file, folder, 'pattern*.jpg' or URL"
    )
    parser.add_argument("--bundle", default="default", help="bundle folder (default: the shipped)")
    parser.add_argument("--mode", choices=MODES, default="auto", help="kind of answer (auto)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write an annotated video")
    parser.add_argument("--jsonl", type=Path, metavar="FILE", help="write one JSON line a frame")
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
    args = parser.parse_args(argv)
    if args.max_frames is not None and args.max_frames < 1:
        parser.error("--max-frames must be at least 1")
    return args
