"""`edge-mm demo`: ask the shipped model about the shipped pictures and a video.

Prints every grounded answer; writes annotated pictures and one self-contained page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mm_runtime.errors import SourceError

if TYPE_CHECKING:
    from edge_mm.demo.page import Card, Film, Row
    from edge_mm.demo.questions import Box, Picture, Video
    from edge_mm_runtime import Session
    from edge_mm_runtime.answer import Answer, Mode
    from edge_mm_runtime.image import Frame


def main(argv: list[str]) -> int:
    """Run the demo; returns the exit code."""
    args = parse_arguments(argv)
    if args.train:
        from edge_mm.demo.train import run_line

        run_line(args.out or Path("demo_train"), args.bundle)
        return 0
    args.out = args.out or Path("demo_out")
    from edge_mm.demo.questions import load_questions, shipped_frames

    folder = args.frames or shipped_frames()
    questions, labels = load_questions(folder)
    args.out.mkdir(parents=True, exist_ok=True)

    from edge_mm.demo.page import render_page, score
    from edge_mm_runtime import Session

    started = time.perf_counter()
    with Session(args.bundle) as session:
        print(f"bundle {args.bundle!r} loaded in {time.perf_counter() - started:.1f} s")
        cards = [
            ask_picture(session, folder, picture, labels.get(picture.file, []), args.out)
            for picture in questions.pictures
        ]
        films = [ask_video(session, folder, video, args.out) for video in questions.videos]

    page = args.out / "index.html"
    page.write_text(render_page(f"The bundle “{args.bundle}”", cards, films), encoding="utf-8")
    total = score(cards)
    print(
        f"\n{total.questions} questions on {len(cards)} pictures, median {total.median_ms:.0f} ms"
    )
    for name, rendered in (("real", False), ("rendered", True)):
        part = score([card for card in cards if card.rendered == rendered])
        print(f"{part.right} of {part.judged} answers right on {name} pictures")
    print(f"open {page.resolve()}")
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="edge-mm demo", description=__doc__)
    parser.add_argument("--bundle", default="default", help="bundle folder or name (default)")
    parser.add_argument(
        "--train",
        action="store_true",
        help="run the whole line at toy size instead: data, training, export, questions",
    )
    parser.add_argument("--out", type=Path, help="folder to write (demo_out, or demo_train)")
    parser.add_argument(
        "--frames", type=Path, help="folder with pictures and questions.json (examples/frames)"
    )
    return parser.parse_args(argv)


def ask_picture(
    session: Session, folder: Path, picture: Picture, labels: list[Box], out: Path
) -> Card:
    """Every question of one picture: printed, drawn, and returned as a card of the page."""
    from edge_mm.demo.judge import judge
    from edge_mm.demo.page import Card
    from edge_mm_runtime.image import read_image

    frame = read_image(folder / picture.file)
    print(f"\n{picture.file}")
    rows = []
    for number, question in enumerate(picture.questions, start=1):
        row = ask(session, frame, question.text, question.mode)
        row = row._replace(verdict=judge(question, row.answer, labels))
        print(line_of(row))
        if row.answer.objects:
            save(frame, row.answer, out / f"{Path(picture.file).stem}-{number}.jpg")
        rows.append(row)
    return Card(picture.file, frame, rows, picture.rendered)


def ask_video(session: Session, folder: Path, video: Video, out: Path) -> Film:
    """One question at evenly spaced frames of a video."""
    from edge_mm.demo.page import Card, Film

    print(f"\n{video.file}: {video.text}")
    cards = []
    for time_s, frame in spaced_frames(folder / video.file, video.every_s):
        row = ask(session, frame, video.text)
        print(line_of(row._replace(question=f"at {time_s:.1f} s")))
        if row.answer.objects:
            save(frame, row.answer, out / f"{Path(video.file).stem}-{time_s:05.1f}s.jpg")
        cards.append(Card(f"{time_s:.1f} s", frame, [row._replace(question="")]))
    return Film(video.file, video.text, cards)


def ask(session: Session, frame: Frame, text: str, mode: Mode = "auto") -> Row:
    from edge_mm.demo.page import Row

    started = time.perf_counter()
    answer = session.ask(frame, text, mode=mode)
    return Row(text, answer, 1000 * (time.perf_counter() - started), mode)


def spaced_frames(path: Path, every_s: float) -> Iterator[tuple[float, Frame]]:
    """Yield (time_s, frame) of a video, every so many seconds from its start."""
    from edge_mm_runtime.sources import open_source

    next_s = 0.0
    with open_source(str(path)) as source:
        for grab in source:
            if grab.timestamp_s is None:
                raise SourceError(f"{path} is not a video")
            if grab.timestamp_s >= next_s:
                next_s += every_s
                yield grab.timestamp_s, grab.frame


def line_of(row: Row) -> str:
    """`  find the red can           41 ms  ✓ IoU 0.91         red can [273 278 377 471] 0.93`"""
    places = [
        f" [{' '.join(f'{value:.0f}' for value in place)}] {item.confidence:.2f}"
        for item, place in zip(row.answer.objects, row.places(), strict=True)
    ]
    verdict = f"{'✓' if row.verdict.right else '✗'} {row.verdict.why}" if row.verdict else ""
    answer = row.answer.text + ",".join(places)
    return f"  {row.question:<42} {row.latency_ms:4.0f} ms  {verdict:<20} {answer}"


def save(frame: Frame, answer: Answer, path: Path) -> None:
    """Write the picture with the answer drawn into it."""
    from edge_mm_runtime.draw import draw_answer
    from edge_mm_runtime.image import write_image

    write_image(path, draw_answer(frame, answer))
