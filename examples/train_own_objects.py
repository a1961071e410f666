"""Teach the shipped model the objects of your lab, from pictures with boxes (COCO format).

    python examples/train_own_objects.py PICTURES annotations.json runs/lab [STEPS]

Category names may be "mug" or "red mug": a leading colour word becomes the object's colour. Needs
edge-mm[train]. The checkpoint lies in runs/lab/checkpoint; `edge-mm export` makes the bundle.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edge_mm.data.formats.coco import read_coco
from edge_mm.data.formats.convert import convert
from edge_mm.data.formats.record import Skips
from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    pictures, annotations, out = (Path(argument) for argument in sys.argv[1:4])
    steps = sys.argv[4] if len(sys.argv) > 4 else "500"
    skips, data = Skips(), out / "data"
    if not data.exists():
        print(convert(read_coco(annotations, skips), pictures, data, "coco", skips))
        print(*skips.lines(), sep="\n")
    settings = [
        f"data.train=[{data}]",
        f"model.init={ROOT / 'models/nano'}",
        f"stages.0.steps={steps}",
    ]
    print("checkpoint:", train(load_recipe(ROOT / "recipes/finetune.yaml", settings), out))
