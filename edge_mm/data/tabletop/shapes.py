"""One door to every shape: `build("cup-0042")` gives the same mesh for ever.

A mesh's name is its kind and its number. Numbers 0..799 are for training, 800..999 are held out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from edge_mm.data.tabletop import boxes, produce, tools, vessels
from edge_mm.data.tabletop.vessels import Shape
from edge_mm.words import KINDS

BUILDERS: dict[str, Callable[[np.random.Generator], Shape]] = {
    "cup": vessels.cup, "mug": vessels.mug, "bowl": vessels.bowl, "plate": vessels.plate,
    "bottle": vessels.bottle, "can": vessels.can, "carton": boxes.carton, "box": boxes.package,
    "ball": produce.ball, "apple": produce.apple, "banana": produce.banana, "pear": produce.pear,
    "lemon": produce.lemon, "hammer": tools.hammer, "screwdriver": tools.screwdriver,
    "wrench": tools.wrench, "spoon": tools.spoon, "marker": tools.marker,
}  # fmt: skip
TRAIN_MESHES = 800
ALL_MESHES = 1000


def mesh_name(kind: str, number: int) -> str:
    """`kind-####`."""
    return f"{kind}-{number:04d}"


@lru_cache(maxsize=256)
def build(name: str) -> Shape:
    """The shape with this name, standing or lying on z = 0, centred on the z axis."""
    kind, number = name.rsplit("-", 1)
    shape = BUILDERS[kind](np.random.default_rng([7, KINDS.index(kind), int(number)]))
    points = np.concatenate([part.mesh.vertices for part in shape.parts])
    if shape.hollow is None and not shape.style:  # lying things: centre them on their middle
        middle = (points.max(0) + points.min(0)) / 2 * [1, 1, 0]
        parts = tuple(vessels.Part(part.role, part.mesh.moved(-middle)) for part in shape.parts)
        return Shape(parts, shape.rests)
    return shape
