"""`edge-mm train RECIPE`: run a recipe, from scratch or from where a run stopped."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse, train, say where the checkpoint is."""
    parser = argparse.ArgumentParser(
        prog="edge-mm train", description="Train a model by a recipe of stages."
    )
    parser.add_argument("recipe", type=Path, help="a YAML file, see recipes/")
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the run in --out")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="A.B=C",
        help="change a value of the recipe, e.g. train.max_steps=20",
    )
    arguments = parser.parse_args(argv)

    from edge_mm_runtime.extras import require

    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages: a tenth faster on a CPU
    require("torch", "train")
    require("transformers", "train")
    from edge_mm.train.loop import train
    from edge_mm.train.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    out = arguments.out or Path("runs") / arguments.recipe.stem
    print(f"checkpoint: {train(recipe, out, arguments.resume)}")
    return 0
