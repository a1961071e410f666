"""`edge-mm ask IMAGE TEXT`: one question about one picture."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from edge_mm_runtime.answer import MODES, Answer
from edge_mm_runtime.commands.options import add_session_options


def main(argv: list[str]) -> int:
    """Ask and print; returns the exit code."""
    args = _parse(argv)
    from edge_mm_runtime.draw import draw_answer
    from edge_mm_runtime.image import read_image, write_image
    from edge_mm_runtime.session import Session

    frame = read_image(args.image)
    with Session(args.bundle, threads=args.threads, device=args.device) as session:
        answer = session.ask(frame, args.text, mode=args.mode, evidence=args.evidence)
    print(json.dumps(answer.to_dict()) if args.json else describe(answer))
    if args.save:
        write_image(args.save, draw_answer(frame, answer))
    return 0


def describe(answer: Answer) -> str:
    """The answer for people: its text, a line for each object, the time that it took.

    With a confidence beside whatever has one: each object, or the text where nothing was located.
    """
    sure = "" if answer.confidence is None else f"  {answer.confidence:.2f}"
    lines = [(answer.text or "(no answer)") + sure]
    for item in answer.objects:
        parts = [f"  {item.label}", f"{item.confidence:.2f}"]
        if item.box_xyxy:
            parts.append("box " + " ".join(f"{value:.1f}" for value in item.box_xyxy))
        if item.point_xy:
            parts.append("point " + " ".join(f"{value:.1f}" for value in item.point_xy))
        lines.append("  ".join(parts))
    cut = "" if answer.finish_reason == "stop" else f", cut short ({answer.finish_reason})"
    if answer.visual_evidence is not None:
        lines.append(f"visual evidence {answer.visual_evidence:.2f}")
    lines.append(f"{answer.timings_ms['total']:.0f} ms{cut}")
    return "\n".join(lines)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm ask",
        description="Ask one question about one picture.",
        epilog="example: edge-mm ask table.jpg 'find the red cup' --save found.png",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="picture file")
    parser.add_argument("text", metavar="TEXT", help="what to find, point at, tell or do")
    add_session_options(parser)
    parser.add_argument("--mode", choices=MODES, default="auto", help="kind of answer (auto)")
    parser.add_argument(
        "--evidence",
        action="store_true",
        help="ask again without the picture: how much did the answer depend on it?",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--save", type=Path, metavar="P", help="write the picture with the answer")
    return parser.parse_args(argv)
