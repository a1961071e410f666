"""`edge-mm export`: a checkpoint becomes a verified bundle. Exit code 1 when it fails its gate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edge_mm_export.precision import PRECISIONS


def main(argv: list[str]) -> int:
    """Run the export; returns the exit code."""
    args = parse_arguments(argv)

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
            frames=args.verify_data or shipped_frames(),
            say=lambda line: print(line, file=sys.stderr),
        )
    except VerificationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm export",
        description=__doc__,
        epilog="precisions by target, the default first: "
        + "; ".join(f"{target}: {', '.join(known)}" for target, known in PRECISIONS.items()),
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint folder made by `edge-mm train`")
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
        help="frames that int4, w8a8 and fp8 are fitted to, of the same kinds; not those to verify "
        "on, which would flatter the figures",
    )
    return parser.parse_args(argv)
