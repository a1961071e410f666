"""Teach the shipped model the objects of your lab, from pictures with boxes (COCO format).

    python examples/train_own_objects.py PICTURES annotations.json runs/lab [STEPS]

Category names may be "mug" or "red mug": a leading colour word becomes the object's colour. Needs
edge-mm[train]. The checkpoint lies in runs/lab/checkpoint; `edge-mm export` makes the bundle.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe
from edge_mm.words import COLORS

ROOT = Path(__file__).resolve().parents[1]


def scenes_from_coco(pictures: Path, annotations: Path) -> list[dict]:
    """COCO images, annotations and categories -> the scenes of a data folder."""
    coco = json.loads(annotations.read_text())
    names = {category["id"]: category["name"].lower() for category in coco["categories"]}
    by_image = defaultdict(list)
    for box in coco["annotations"]:
        x, y, width, height = box["bbox"]
        first, _, rest = names[box["category_id"]].partition(" ")
        color, kind = (first, rest) if first in COLORS and rest else (None, f"{first} {rest}")
        objects, corners = by_image[box["image_id"]], [x, y, x + width, y + height]
        item = {"id": len(objects) + 1, "kind": kind.strip(), "color": color, "box_xyxy": corners}
        objects.append(item)
    return [
        {
            "id": str(image["id"]),
            "width": image["width"],
            "height": image["height"],
            "image": str((pictures / image["file_name"]).resolve()),
            "objects": by_image[image["id"]],
        }
        for image in coco["images"]
    ]


if __name__ == "__main__":
    pictures, annotations, out = (Path(argument) for argument in sys.argv[1:4])
    out.mkdir(parents=True, exist_ok=True)
    data = {"schema": 1, "scenes": scenes_from_coco(pictures, annotations)}
    (out / "scenes.json").write_text(json.dumps(data))
    steps = sys.argv[4] if len(sys.argv) > 4 else "500"
    settings = [
        f"data.train=[{out}]",
        f"model.init={ROOT / 'models/nano'}",
        f"stages.0.steps={steps}",
    ]
    print("checkpoint:", train(load_recipe(ROOT / "recipes/finetune.yaml", settings), out))
