"""Procedural pictures for tables and rooms: uint8 RGB arrays from a random generator.

A surface family is a function; `HELD_OUT` families appear only in the `looks` split.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Float = NDArray[np.float32]
SIZE = 384


def clouds(rng: np.random.Generator, cells: int, octaves: int = 4, stretch: int = 1) -> Float:
    """Smooth noise [SIZE,SIZE] in 0..1; stretch > 1 draws it out along x."""
    total = np.zeros((SIZE, SIZE), np.float32)
    for octave in range(octaves):
        n = min(cells * 2**octave, SIZE // 2)
        coarse = rng.random((n, max(2, n // stretch)), dtype=np.float32)
        total += cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return np.asarray((total - low) / (high - low + 1e-6), np.float32)


def tone(
    rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]
) -> Float:
    """A random colour as float RGB in 0..1."""
    color = colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return np.array(color, np.float32)


def wood_tone(rng: np.random.Generator) -> Float:
    """A colour of some timber, from birch to wenge."""
    hue, value = rng.uniform(18, 38) / 360, rng.uniform(0.18, 0.88)
    saturation = rng.uniform(0.25, 0.6) if value > 0.5 else rng.uniform(0.3, 0.65)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def mix(a: Float, b: Float, amount: Float) -> Image:
    """Blend two colours by a map in 0..1."""
    t = np.clip(amount, 0, 1)[..., None]
    return np.asarray(np.clip((a * (1 - t) + b * t) * 255, 0, 255), np.uint8)


def wood(rng: np.random.Generator) -> Image:
    """Grain that runs along x."""
    base = wood_tone(rng)
    y = np.linspace(0, rng.uniform(4, 14), SIZE, dtype=np.float32)[:, None]
    rings = np.sin((y + clouds(rng, 4, 2, 4) * rng.uniform(1, 5)) * 2 * np.pi) * 0.5 + 0.5
    grain = 0.5 * rings + 0.5 * clouds(rng, 48, 2, 24)
    return mix(base, base * rng.uniform(0.55, 0.85), grain)


def planks(rng: np.random.Generator) -> Image:
    """Boards side by side with dark gaps."""
    image = wood(rng).astype(np.float32)
    count = int(rng.integers(3, 8))
    edges = np.linspace(0, SIZE, count + 1).astype(int)
    for low, high in pairwise(edges):
        image[low:high] *= rng.uniform(0.8, 1.12)
        image[low : low + 2] *= 0.45
    return np.asarray(np.clip(image, 0, 255), np.uint8)


def marble(rng: np.random.Generator) -> Image:
    """Veins on a pale or dark ground."""
    ground = tone(rng, (0, 0.12), (0.75, 0.95) if rng.random() < 0.7 else (0.08, 0.35))
    vein = ground * rng.uniform(0.45, 0.75) if ground.mean() > 0.5 else ground + 0.3
    warp = clouds(rng, 4, 5)
    lines = np.abs(np.sin((warp * rng.uniform(3, 7) + clouds(rng, 2, 1)) * np.pi))
    return mix(vein, ground, lines ** rng.uniform(0.25, 0.6))


def granite(rng: np.random.Generator) -> Image:
    """Speckled stone."""
    ground = tone(rng, (0, 0.25), (0.2, 0.8))
    speckle = cv2.GaussianBlur(
        rng.random((SIZE, SIZE), dtype=np.float32), (0, 0), rng.uniform(0.6, 1.6)
    )
    speckle = (speckle - speckle.mean()) / (speckle.std() + 1e-6) * 0.28 + 0.5
    return mix(ground * 0.55, np.minimum(ground * 1.35, 1), np.asarray(speckle, np.float32))


def concrete(rng: np.random.Generator) -> Image:
    """Blotchy grey or beige plaster."""
    ground = tone(rng, (0, 0.15), (0.35, 0.8))
    return mix(ground * 0.8, np.minimum(ground * 1.12, 1), clouds(rng, 6, 5))


def stripes(rng: np.random.Generator) -> Image:
    """A striped cloth of two to five colours."""
    colors = [tone(rng, (0, 0.8), (0.25, 0.95)) for _ in range(int(rng.integers(2, 6)))]
    image = np.empty((SIZE, SIZE, 3), np.float32)
    y = 0
    while y < SIZE:
        width = int(rng.integers(3, 40))
        image[y : y + width] = colors[int(rng.integers(len(colors)))]
        y += width
    image *= 0.9 + 0.1 * clouds(rng, 96, 1)[..., None]
    return np.asarray(image * 255, np.uint8)


def checks(rng: np.random.Generator) -> Image:
    """A checked (gingham or chessboard) cloth."""
    count = int(rng.integers(4, 16))
    index = np.arange(SIZE) * count // SIZE % 2
    a, b = tone(rng, (0, 0.8), (0.3, 0.9)), tone(rng, (0, 0.2), (0.7, 1.0))
    if rng.random() < 0.5:
        amount = (index[:, None] + index[None]) / 2.0
    else:
        amount = (index[:, None] ^ index[None]).astype(float)
    return mix(a, b, np.asarray(amount, np.float32))


def weave(rng: np.random.Generator) -> Image:
    """Coarse cloth: threads over and under."""
    ground = tone(rng, (0, 0.6), (0.25, 0.9))
    count = rng.uniform(30, 70)
    t = np.linspace(0, count * 2 * np.pi, SIZE, dtype=np.float32)
    threads = 0.5 + 0.25 * np.sin(t)[:, None] + 0.25 * np.sin(t)[None]
    return mix(
        ground * 0.7, ground, np.asarray(threads * 0.7 + 0.3 * clouds(rng, 64, 2), np.float32)
    )


def plain(rng: np.random.Generator) -> Image:
    """One colour with a faint unevenness."""
    ground = tone(rng, (0, 0.55), (0.3, 0.97))
    return mix(ground * 0.94, ground, clouds(rng, 3, 2))


def dark(rng: np.random.Generator) -> Image:
    """Black or nearly black, with fine scratches or none."""
    ground = tone(rng, (0, 0.4), (0.04, 0.18))
    return mix(
        ground,
        np.minimum(ground + rng.uniform(0.02, 0.1), 1),
        clouds(rng, 32, 3, int(rng.choice([1, 16]))),
    )


def white(rng: np.random.Generator) -> Image:
    """A white or cream worktop."""
    ground = tone(rng, (0, 0.08), (0.86, 1.0))
    return mix(ground * 0.95, ground, clouds(rng, 4, 3))


def rug(rng: np.random.Generator) -> Image:
    """Large soft blobs of several colours, as on printed cloth."""
    image = np.broadcast_to(tone(rng, (0, 0.5), (0.3, 0.9)), (SIZE, SIZE, 3)).copy()
    for _ in range(int(rng.integers(3, 7))):
        mask = clouds(rng, int(rng.integers(4, 12)), 1) > rng.uniform(0.55, 0.75)
        image[mask] = tone(rng, (0, 0.7), (0.25, 0.95))
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.0) * 255, np.uint8)


def tiles(rng: np.random.Generator) -> Image:
    """Square tiles with grout."""
    count = int(rng.integers(3, 9))
    shade = rng.uniform(0.82, 1.08, (count, count)).astype(np.float32)
    image = cv2.resize(shade, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)[..., None] * tone(
        rng, (0, 0.5), (0.4, 0.9)
    )
    step = SIZE // count
    grout = tone(rng, (0, 0.1), (0.5, 0.85))
    for k in range(count + 1):
        image[max(0, k * step - 2) : k * step + 2] = grout
        image[:, max(0, k * step - 2) : k * step + 2] = grout
    return np.asarray(np.clip(image, 0, 1) * 255, np.uint8)


def swirls(rng: np.random.Generator) -> Image:
    """Bands of two colours, bent by noise, as in terrazzo or marbled paper."""
    field = clouds(rng, 3, 2) * rng.uniform(4, 12)
    bands = np.sin(field * 2 * np.pi) * 0.5 + 0.5
    a, b = tone(rng, (0.1, 0.7), (0.3, 0.9)), tone(rng, (0, 0.6), (0.3, 0.95))
    return mix(a, b, np.asarray(np.clip(bands * 2 - 0.5, 0, 1), np.float32))


SURFACES: dict[str, Callable[[np.random.Generator], Image]] = {
    "wood": wood, "planks": planks, "marble": marble, "granite": granite, "concrete": concrete,
    "stripes": stripes, "checks": checks, "weave": weave, "plain": plain, "dark": dark,
    "white": white, "rug": rug, "tiles": tiles, "swirls": swirls,
}  # fmt: skip
HELD_OUT = ("tiles", "swirls")
WEIGHTS = {"wood": 2.2, "dark": 1.8, "plain": 1.6, "white": 1.3, "rug": 0.5, "checks": 0.7}


def room(rng: np.random.Generator) -> Image:
    """What stands behind the table: a wall, sometimes cloth, mostly with blurred things on it."""
    style = rng.random()
    if style < 0.12:
        return stripes(rng)
    if style < 0.2:
        return weave(rng)
    wall = tone(rng, (0, 0.3), (0.3, 0.95))
    image = np.asarray(np.broadcast_to(wall, (SIZE, SIZE, 3)) * 255, np.uint8).copy()
    shade = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.7, 1), SIZE)[:, None, None]
    if style > 0.45:
        for _ in range(int(rng.integers(6, 30))):
            x, y = rng.integers(0, SIZE, 2)
            w, h = rng.integers(8, 110, 2)
            color = [float(c) for c in tone(rng, (0, 0.7), (0.05, 0.95)) * 255]
            if rng.random() < 0.75:
                cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), color, -1)
            else:
                cv2.ellipse(
                    image, (int(x), int(y)), (int(w // 2), int(h // 2)), 0, 0, 360, color, -1
                )
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(3, 10)), np.uint8)
    return np.asarray(np.clip(image * shade, 0, 255), np.uint8)
