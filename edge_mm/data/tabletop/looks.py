"""How an object looks: its material and the picture on its surface, true to its colour name.

Decoration covers at most about a third of the surface, so that the main colour stays the one that
a person would say.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field

import cv2
import numpy as np

from edge_mm.data.tabletop.kinds import Rgb, sample_color
from edge_mm.data.tabletop.textures import Image, clouds
from edge_mm.data.tabletop.vessels import Shape
from edge_mm.words import COLORS

WIDTH, HEIGHT = 256, 192  # texture size: u runs along x, v (upwards) along y
METAL = (0.66, 0.66, 0.68)
PRINTED = ("cup", "mug", "bottle", "can", "carton", "box")


@dataclass(frozen=True)
class Paint:
    """What the renderer needs for one part: colour with alpha, shine, and perhaps a texture."""

    rgba: tuple[float, float, float, float]
    specular: float = 0.2
    shininess: float = 0.3
    texture: Image | None = None
    emission: float = 0.0


@dataclass(frozen=True)
class Look:
    """The object's material word and a paint for each part role (an absent role is not drawn)."""

    material: str
    paints: dict[str, Paint] = field(default_factory=dict)
    colored: frozenset[str] = frozenset({"body"})  # the roles that carry the object's colour


def accent(color: str, rng: np.random.Generator) -> Rgb:
    """A colour for decoration that differs from the main colour."""
    weights = {"white": 4.0, "black": 2.0, "gray": 1.0}
    names = [name for name in COLORS if name != color]
    share = np.array([weights.get(name, 1.0) for name in names])
    return sample_color(names[int(rng.choice(len(names), p=share / share.sum()))], rng)


def _ink(rgb: Rgb) -> tuple[float, float, float]:
    return (rgb[0] * 255, rgb[1] * 255, rgb[2] * 255)


def _text(image: Image, x: int, y: int, width: int, ink: Rgb, rng: np.random.Generator) -> None:
    """Some letters at (x, y), about `width` wide, read upright on the object."""
    word = "".join(rng.choice(list(string.ascii_letters), int(rng.integers(3, 8))))
    font = int(rng.choice([0, 1, 2, 3, 4, 6, 7]))
    size, _ = cv2.getTextSize(word, font, 1.0, 2)
    cv2.putText(
        image, word, (x, y), font, width / max(size[0], 1), _ink(ink), int(rng.integers(1, 4)), 16
    )


def _label(image: Image, rgb: Rgb, color: str, rng: np.random.Generator, kind: str) -> None:
    """A band or a patch with a word and a mark on it."""
    paper = accent(color, rng)
    tall = rng.uniform(0.14, 0.34)
    low = rng.uniform(0.25, 0.6) if kind != "carton" else rng.uniform(0.2, 0.45)
    y0, y1 = int(HEIGHT * (1 - low - tall)), int(HEIGHT * (1 - low))
    ink = rgb if rng.random() < 0.5 else accent(color, rng)
    around = rng.random() < 0.5
    repeats = 4 if kind in ("carton", "box") else 2
    step = WIDTH // repeats
    for k in range(repeats):
        x0 = k * step + (0 if around else step // 8)
        x1 = (k + 1) * step - (0 if around else step // 8)
        if around or rng.random() < 0.6:
            cv2.rectangle(image, (x0, y0), (x1 - 1, y1), _ink(paper), -1)
        else:
            centre = ((x0 + x1) // 2, (y0 + y1) // 2)
            cv2.ellipse(
                image, centre, ((x1 - x0) // 2, (y1 - y0) // 2), 0, 0, 360, _ink(paper), -1, 16
            )
        _text(image, x0 + step // 10, (y0 + y1) // 2 + 4, int(step * 0.65), ink, rng)
        for row in range(int(rng.integers(0, 4))):
            y = y1 - 4 - row * 5
            cv2.line(
                image,
                (x0 + step // 8, y),
                (x0 + int(step * rng.uniform(0.4, 0.7)), y),
                _ink(ink),
                1,
            )


def _print(image: Image, color: str, rng: np.random.Generator, kind: str) -> None:
    """A word, a mark and small print straight on the main colour."""
    ink = accent(color, rng)
    repeats = 4 if kind in ("carton", "box") else int(rng.choice([1, 2]))
    step = WIDTH // repeats
    for k in range(repeats):
        x = k * step + step // 10
        y = int(HEIGHT * rng.uniform(0.35, 0.7))
        _text(image, x, y, int(step * 0.7), ink, rng)
        if rng.random() < 0.6:
            second = accent(color, rng)
            radius = int(rng.integers(6, 20))
            centre = (x + int(step * rng.uniform(0.2, 0.6)), y + int(rng.integers(14, 45)))
            cv2.ellipse(
                image,
                centre,
                (radius, int(radius * rng.uniform(0.5, 1.2))),
                0,
                0,
                360,
                _ink(second),
                -1,
                16,
            )


def _rings(image: Image, color: str, rng: np.random.Generator) -> None:
    """One to three thin rings."""
    ink = accent(color, rng)
    for _ in range(int(rng.integers(1, 4))):
        y = int(rng.integers(2, HEIGHT // 2))  # the upper half: below it lies the floor of a plate
        cv2.rectangle(image, (0, y), (WIDTH, y + int(rng.integers(2, 14))), _ink(ink), -1)


def _motif(image: Image, color: str, rng: np.random.Generator) -> None:
    """Scattered dots, flowers or leaves."""
    ink = accent(color, rng)
    count = int(rng.integers(6, 22))
    petals = int(rng.choice([0, 0, 4, 5]))
    radius = int(rng.integers(3, 8))
    for _ in range(count):
        x, y = int(rng.integers(0, WIDTH)), int(rng.integers(10, HEIGHT - 10))
        for k in range(petals):
            angle = 2 * np.pi * k / petals
            at = (int(x + radius * np.cos(angle)), int(y + radius * np.sin(angle)))
            cv2.circle(image, at, max(2, radius // 2), _ink(ink), -1, 16)
        if not petals:
            cv2.ellipse(
                image,
                (x, y),
                (radius, int(radius * rng.uniform(0.4, 1))),
                0,
                0,
                360,
                _ink(ink),
                -1,
                16,
            )


def _strokes(image: Image, color: str, rng: np.random.Generator) -> None:
    """A few curved lines."""
    ink = accent(color, rng)
    for _ in range(int(rng.integers(2, 6))):
        x = np.linspace(rng.uniform(-50, WIDTH), rng.uniform(0, WIDTH + 50), 20)
        y = rng.uniform(20, HEIGHT - 20) + rng.uniform(5, 40) * np.sin(
            np.linspace(0, rng.uniform(2, 9), 20)
        )
        cv2.polylines(
            image,
            [np.stack([x, y], 1).astype(np.int32)],
            False,
            _ink(ink),
            int(rng.integers(1, 4)),
            16,
        )


def _sheen(image: Image, rng: np.random.Generator, strength: float) -> Image:
    """A mirrored room, faked: light and dark bands that run up the object."""
    knots = rng.uniform(0.45, 1.0, int(rng.integers(7, 12)))
    knots[-1] = knots[0]
    bands = np.interp(np.linspace(0, 1, WIDTH), np.linspace(0, 1, len(knots)), knots)
    bright = 1 + strength * (bands - 0.75) * 1.6
    return np.asarray(np.clip(image * bright[None, :, None], 0, 255), np.uint8)


def decorated(
    kind: str, color: str, rgb: Rgb, style: str, rng: np.random.Generator
) -> Image | None:
    """A texture for the body, or None for a plain one. Row 0 is the top (v = 1)."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = np.asarray(_ink(rgb), np.uint8)
    plain_share = {"can": 0.12, "carton": 0.1, "bottle": 0.4, "box": 0.35, "cup": 0.5, "mug": 0.5}
    if rng.random() < plain_share.get(kind, 0.65):
        return None
    if kind in PRINTED:
        choice = rng.choice(
            ["label", "print", "rings", "motif", "strokes"], p=[0.32, 0.3, 0.12, 0.14, 0.12]
        )
        if choice == "label":
            _label(image, rgb, color, rng, kind)
        elif choice == "print":
            _print(image, color, rng, kind)
        elif choice == "rings":
            _rings(image, color, rng)
        elif choice == "motif":
            _motif(image, color, rng)
        else:
            _strokes(image, color, rng)
        if kind in ("can", "carton") and rng.random() < 0.5:
            _print(image, color, rng, kind)
    elif kind in ("bowl", "plate"):
        [_rings, _motif, _strokes][int(rng.integers(3))](image, color, rng)
    elif kind == "ball":
        ink = accent(color, rng)
        if rng.random() < 0.5:
            y = int(HEIGHT * rng.uniform(0.4, 0.6))
            cv2.rectangle(image, (0, y - 8), (WIDTH, y + int(rng.integers(4, 16))), _ink(ink), -1)
        else:
            for k in range(int(rng.integers(3, 6))):
                cv2.rectangle(
                    image, (k * 50, 0), (k * 50 + int(rng.integers(4, 14)), HEIGHT), _ink(ink), -1
                )
    elif kind in ("hammer", "screwdriver", "spoon", "wrench"):
        return None
    return image


def fruit(kind: str, color: str, rgb: Rgb, rng: np.random.Generator) -> Image:
    """Skin: blotches, a blush on apples, freckles, brown ends on bananas."""
    noise = cv2.resize(clouds(rng, 6, 4), (WIDTH, HEIGHT))[..., None]
    skin = np.asarray(rgb, np.float32) * (0.85 + 0.25 * noise)
    if kind in ("apple", "pear") and rng.random() < 0.55:
        blush = np.array((0.95, 0.75, 0.25) if color == "red" else (0.85, 0.8, 0.35), np.float32)
        amount = np.clip(
            cv2.resize(clouds(rng, 3, 3), (WIDTH, HEIGHT))[..., None] * 1.6 - 0.9, 0, 0.6
        )
        skin = skin * (1 - amount) + blush * amount
    if kind == "banana":
        end = np.abs(np.linspace(-1, 1, HEIGHT, dtype=np.float32))[:, None, None]
        amount = np.clip((end - rng.uniform(0.84, 0.92)) / 0.06, 0, 1) * 0.85
        skin = skin * (1 - amount) + np.array((0.25, 0.18, 0.08), np.float32) * amount
    image = np.asarray(np.clip(skin * 255, 0, 255), np.uint8)
    freckle = tuple(float(c) * 170 for c in rgb)
    for _ in range(int(rng.integers(0, 40))):
        at = (int(rng.integers(0, WIDTH)), int(rng.integers(20, HEIGHT - 20)))
        cv2.circle(image, at, int(rng.integers(1, 3)), freckle, -1, 16)
    return image


def drink(rng: np.random.Generator, color: str) -> Rgb:
    """Tea, coffee, milk, juice or water."""
    choices = [
        (0.62, 0.4, 0.22),
        (0.7, 0.5, 0.36),
        (0.2, 0.1, 0.05),
        (0.95, 0.93, 0.88),
        (0.9, 0.6, 0.1),
    ]
    share = [0.28, 0.3, 0.16, 0.16, 0.1] if color == "white" else [0.25, 0.25, 0.15, 0.3, 0.05]
    base = np.array(choices[int(rng.choice(5, p=share))]) * rng.uniform(0.85, 1.1)
    return (float(min(base[0], 1)), float(min(base[1], 1)), float(min(base[2], 1)))


def paint(kind: str, color: str, shape: Shape, rng: np.random.Generator) -> Look:
    """A random look for an object of this kind and colour name."""
    rgb = sample_color(color, rng)
    materials = {"matte": 0.35, "glossy": 0.4, "metallic": 0.08, "translucent": 0.0}
    if kind in ("bottle", "cup") and color not in ("black", "brown"):
        materials["translucent"] = 0.6 if kind == "bottle" else 0.08
    if kind in ("wrench", "spoon") or shape.style == "steel" or (kind == "can" and color == "gray"):
        materials = {"metallic": 0.75, "glossy": 0.25}
    if kind in ("carton", "box", "apple", "banana", "pear", "lemon", "ball"):
        materials = {"matte": 0.6, "glossy": 0.4}
    names = list(materials)
    share = np.array(list(materials.values()))
    material = names[int(rng.choice(len(names), p=share / share.sum()))]
    if material == "metallic" and color == "brown":  # copper and bronze are brown too
        rgb = (rng.uniform(0.55, 0.72), rng.uniform(0.34, 0.43), rng.uniform(0.2, 0.28))
    if material == "metallic" and color == "gray":
        rgb = tuple([rng.uniform(0.43, 0.58)] * 3)  # type: ignore[assignment]
    shine = {"matte": (0.08, 0.2), "glossy": (rng.uniform(0.4, 0.9), rng.uniform(0.5, 0.95)),
             "metallic": (0.9, 0.6), "translucent": (0.9, 0.85)}[material]  # fmt: skip
    if kind in ("apple", "banana", "pear", "lemon"):
        texture: Image | None = fruit(kind, color, rgb, rng)
    else:
        texture = decorated(kind, color, rgb, shape.style, rng)
    reflective = material == "metallic" or (
        material == "glossy" and kind not in ("plate", "bowl", "ball") and rng.random() < 0.25
    )
    if reflective:
        base = texture if texture is not None else np.full((HEIGHT, WIDTH, 3), _ink(rgb), np.uint8)
        texture = _sheen(base, rng, rng.uniform(0.5, 1.0) if material == "metallic" else 0.25)
    alpha = 1.0
    if material == "translucent":
        alpha = float(rng.uniform(0.62, 0.85))
    tint = (1.0, 1.0, 1.0) if texture is not None else rgb
    glow = float(rng.uniform(0.05, 0.3)) if material == "translucent" else 0.0
    body = Paint((*tint, alpha), *shine, texture, glow)
    paints = {"body": body}
    plain = Paint((*rgb, alpha), *shine, None, glow)
    paints["inside"] = plain
    if kind in ("cup", "mug") and color != "white" and rng.random() < 0.3:
        paints["inside"] = Paint((*sample_color("white", rng), alpha), *shine)
    cap = rgb if rng.random() < 0.35 else accent(color, rng)
    if kind == "marker":
        cap = rgb if rng.random() < 0.6 else sample_color("black", rng)
    if kind == "bottle" and material == "metallic" and rng.random() < 0.7:
        cap = rgb if rng.random() < 0.6 else METAL
    paints["cap"] = Paint((*cap, 1.0), 0.4, 0.5)
    paints["fin"] = Paint((*(rgb if rng.random() < 0.5 else (0.93, 0.93, 0.92)), 1.0), 0.1, 0.2)
    if color == "gray" and kind == "hammer":
        paints["metal"] = Paint((0.3, 0.3, 0.31, 1.0), 0.8, 0.6)
    else:
        steel = rng.uniform(0.3, 0.75)
        paints["metal"] = Paint((steel, steel, steel * 1.02, 1.0), 0.9, 0.6)
    if kind in ("hammer", "screwdriver") and rng.random() < 0.12:
        paints["metal"] = Paint((*rgb, 1.0), 0.5, 0.5)  # a toy
    paints["liquid"] = Paint((*drink(rng, color), 1.0), 0.6, 0.8)
    paints["stem"] = Paint((0.3, 0.22, 0.1, 1.0))
    if material == "translucent" and rng.random() < 0.5:
        darker = tuple(c * rng.uniform(0.75, 1.0) for c in rgb)
        paints["drink"] = Paint((darker[0], darker[1], darker[2], 1.0), 0.3, 0.5)
    colored = {"body"} | {role for role in ("inside", "cap", "fin", "drink") if role in paints and (
        role == "drink" or paints[role].rgba[:3] == rgb)}  # fmt: skip
    return Look(material, paints, frozenset(colored))
