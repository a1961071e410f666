"""`edge-mm data make tabletop`: render annotated scenes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse and render."""
    parser = argparse.ArgumentParser(prog="edge-mm data", description="Make training data.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="make")
    make = commands.add_parser("make", help="render a data set")
    make.add_argument("world", choices=["tabletop"], help="which world")
    make.add_argument("--count", type=int, required=True, help="pictures")
    make.add_argument("--seed", type=int, default=1)
    make.add_argument(
        "--split",
        default="train",
        choices=["train", "val", "meshes", "combos", "looks"],
        help="which part of the world: what was held out from train (default: train)",
    )
    make.add_argument("--out", type=Path, required=True, help="folder; taken up where it stopped")
    make.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    make.add_argument("--depth", action="store_true", help="write depth pictures too")
    arguments = parser.parse_args(argv)

    from edge_mm_runtime.extras import require

    require("mujoco", "data")
    from edge_mm.data.tabletop.write import make_dataset

    print(
        make_dataset(
            arguments.out,
            arguments.count,
            arguments.seed,
            arguments.split,
            arguments.workers,
            arguments.depth,
        )
    )
    return 0
