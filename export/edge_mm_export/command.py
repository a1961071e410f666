"""`edge-mm export`: a checkpoint becomes a verified bundle. Exit code 1 when it fails its gate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_mm_export.precision import PRECISIONS


def main(argv: list[str]) -> int:
    """Run the export; returns the exit code."""
    args = parse_arguments(argv)

    if args.llava:
        from edge_mm_export.interop import export_llava

        export_llava(args.checkpoint, args.out, say=_say)
        return 0

    from edge_mm.demo.questions import shipped_frames
    from edge_mm_export.errors import VerificationError
    from edge_mm_export.export import export_checkpoint

    try:
        export_checkpoint(
            args.checkpoint,
            args.out,
            target=args.target,
            precision=args.precision,
            calibration=args.calibration_data,
            image_size=args.image_size,
            context=args.context,
            frames=args.verify_data or shipped_frames(),
            say=_say,
        )
    except VerificationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm export",
        description=__doc__,
        epilog="precisions by target, the default first: "
        + "; ".join(f"{target}: {', '.join(known)}" for target, known in PRECISIONS.items()),
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="checkpoint folder made by `edge-mm train`, or a vision-language model in the format "
        "of transformers",
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="new folder for the bundle")
    parser.add_argument(
        "--target", default="cpu", help="engine that runs it: " + ", ".join(PRECISIONS)
    )
    parser.add_argument("--precision", help="what it computes in and how weights are stored")
    parser.add_argument(
        "--verify-data",
        type=Path,
        metavar="DIR",
        help="frames to verify on: scenes.json or questions.json (default: examples/frames)",
    )
    parser.add_argument(
        "--calibration-data",
        type=Path,
        metavar="DIR",
        help="frames that int4, fp8 and w8a8 are fitted to (w8a8 and w8a8-tensor of cpu: the "
        "tower, if they are given), of the same kinds; not those to verify on, which would "
        "flatter the figures",
    )
    parser.add_argument(
        "--image-size",
        type=_size,
        metavar="WIDTHxHEIGHT",
        help="pixels of the vision graph, for models of transformers that take every size "
        "(default: 448x448)",
    )
    parser.add_argument(
        "--context",
        type=_positive,
        metavar="TOKENS",
        help="capacity of the key/value cache, for models of transformers (default: 2048, or what "
        "the picture needs)",
    )
    parser.add_argument(
        "--llava",
        action="store_true",
        help="write a LLaVA folder of transformers instead of a bundle: of a checkpoint whose "
        "vision tower and language model are transformers'",
    )
    return parser.parse_args(argv)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    return _positive(width), _positive(height)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)
