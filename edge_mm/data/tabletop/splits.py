"""What each split may show. `train` and `val` differ by seed only; the others hold something out.

- `meshes`: only meshes 800..999 and held-out scans, which no other split uses.
- `combos`: every scene shows at least one held-out pair of colour and kind; no other split does.
- `looks`: held-out surface families, and cameras that are both wide and of middle elevation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mm.data.tabletop import textures
from edge_mm.data.tabletop.packs import Scan
from edge_mm.data.tabletop.shapes import ALL_MESHES, TRAIN_MESHES

SPLITS = ("train", "val", "meshes", "combos", "looks")
HELD_OUT_PAIRS = frozenset(
    {
        ("cup", "orange"),
        ("mug", "green"),
        ("mug", "yellow"),
        ("bowl", "purple"),
        ("bowl", "black"),
        ("plate", "pink"),
        ("bottle", "yellow"),
        ("can", "brown"),
        ("can", "purple"),
        ("carton", "blue"),
        ("box", "pink"),
        ("ball", "white"),
        ("ball", "brown"),
        ("hammer", "orange"),
        ("screwdriver", "purple"),
        ("wrench", "red"),
        ("spoon", "green"),
        ("marker", "gray"),
    }
)


@dataclass(frozen=True)
class Rules:
    """The limits of one split."""

    split: str
    scans: tuple[Scan, ...] = ()  # of packs; empty: our own meshes only

    def scans_of(self, kind: str) -> list[Scan]:
        """The scans of a kind that this split may use."""
        return [
            scan
            for scan in self.scans
            if scan.row.kind == kind
            and scan.held_out == (self.split == "meshes")
            and (scan.row.color is None or self.allows_pair(kind, scan.row.color))
        ]

    def mesh_number(self, rng: np.random.Generator) -> int:
        """A mesh number that this split may use."""
        if self.split == "meshes":
            return int(rng.integers(TRAIN_MESHES, ALL_MESHES))
        return int(rng.integers(TRAIN_MESHES))

    def allows_pair(self, kind: str, color: str) -> bool:
        """Held-out pairs are for `combos` only."""
        return self.split == "combos" or (kind, color) not in HELD_OUT_PAIRS

    @property
    def needs_held_out_pair(self) -> bool:
        """Whether a scene is only valid with a held-out pair in view."""
        return self.split == "combos"

    def surfaces(self) -> dict[str, float]:
        """Surface families with their weights."""
        held = self.split == "looks"
        return {
            name: textures.WEIGHTS.get(name, 1.0)
            for name in textures.SURFACES
            if (name in textures.HELD_OUT) == held
        }

    def camera(self, rng: np.random.Generator) -> tuple[float, float]:
        """Field of view over the long side and elevation, both in degrees."""
        if self.split == "looks":
            return float(rng.uniform(60, 75)), float(rng.uniform(32, 46))
        while True:
            fov = float(rng.uniform(35, 75))
            low, high = ((15, 28), (25, 62), (60, 90))[int(rng.choice(3, p=[0.32, 0.5, 0.18]))]
            elevation = float(rng.uniform(low, high))
            if not (fov >= 60 and 32 <= elevation <= 46):
                return fov, elevation


def scene_seed(seed: int, split: str, index: int) -> int:
    """A number that no other (seed below 1000, split, index below ten million) shares."""
    return (SPLITS.index(split) * 1000 + seed) * 10_000_000 + index
