"""What the colour words look like, and which colours a kind comes in.

A colour is a region of HSV (hue in degrees, saturation and value in 0..1) narrow enough that a
person would give it the same name under white light.
"""

from __future__ import annotations

import colorsys

import numpy as np

from edge_mm.words import COLORS

Rgb = tuple[float, float, float]
Region = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]

# One or more regions (hue, saturation, value) a colour; one is picked, then a point inside it.
REGIONS: dict[str, tuple[Region, ...]] = {
    "red": (((-9, 3), (0.82, 1.0), (0.55, 0.88)),),
    "orange": (((21, 32), (0.85, 1.0), (0.90, 1.0)),),
    "yellow": (((47, 58), (0.72, 1.0), (0.88, 1.0)),),
    "green": (((95, 155), (0.50, 1.0), (0.35, 0.82)), ((78, 110), (0.55, 0.9), (0.60, 0.90))),
    "blue": (((205, 236), (0.60, 1.0), (0.45, 0.95)), ((188, 208), (0.55, 1.0), (0.55, 0.90))),
    "purple": (((262, 290), (0.45, 0.88), (0.45, 0.85)),),
    "pink": (((320, 340), (0.38, 0.80), (0.88, 1.0)), ((338, 355), (0.24, 0.45), (0.95, 1.0))),
    "brown": (((18, 29), (0.52, 0.78), (0.29, 0.49)),),
    "black": (((0, 360), (0.0, 0.15), (0.03, 0.13)),),
    "white": (((20, 260), (0.0, 0.06), (0.90, 1.0)),),
    "gray": (((0, 360), (0.0, 0.06), (0.38, 0.55)),),
}

# Fruit comes in the colours of nature, everything else in all of them.
NATURAL: dict[str, dict[str, float]] = {
    "apple": {"red": 0.5, "green": 0.32, "yellow": 0.18},
    "banana": {"yellow": 0.93, "green": 0.07},
    "pear": {"green": 0.6, "yellow": 0.4},
    "lemon": {"yellow": 1.0},
}
# What people own most of: a multiplier on the otherwise even choice of colours.
COMMON: dict[tuple[str, str], float] = {
    ("cup", "white"): 3.0, ("mug", "white"): 2.0, ("bowl", "white"): 2.0, ("plate", "white"): 3.0,
    ("bottle", "white"): 1.5, ("bottle", "green"): 1.6, ("bottle", "pink"): 1.5,
    ("bottle", "purple"): 1.3, ("bottle", "blue"): 1.5, ("bottle", "brown"): 1.4,
    ("can", "red"): 2.0, ("carton", "white"): 1.8, ("carton", "purple"): 1.5, ("box", "brown"): 2.5,
    ("spoon", "gray"): 3.0, ("wrench", "gray"): 3.0, ("can", "gray"): 1.5, ("bottle", "gray"): 1.3,
}  # fmt: skip
KIND_WEIGHTS = {"cup": 1.3, "bottle": 1.9, "carton": 1.4, "can": 1.3, "mug": 1.6, "box": 1.1}


def sample_color(name: str, rng: np.random.Generator) -> Rgb:
    """A colour that deserves this name, as RGB in 0..1."""
    regions = REGIONS[name]
    hue, saturation, value = (rng.uniform(*span) for span in regions[rng.integers(len(regions))])
    return colorsys.hsv_to_rgb((hue / 360.0) % 1.0, saturation, value)


def color_weights(kind: str) -> dict[str, float]:
    """How often a kind comes in each colour (unnormalised; colours it never has are left out)."""
    if kind in NATURAL:
        return dict(NATURAL[kind])
    return {color: COMMON.get((kind, color), 1.0) for color in COLORS}


def pick(weights: dict[str, float], rng: np.random.Generator) -> str:
    """One key, with a chance in proportion to its weight."""
    names = list(weights)
    share = np.array([weights[name] for name in names])
    return names[int(rng.choice(len(names), p=share / share.sum()))]
