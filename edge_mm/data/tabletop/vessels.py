"""Shapes that hold things: cup, mug, bowl, plate, bottle, can. Random profiles turned about z.

Each builder takes a random generator and returns a Shape that stands on z = 0, in metres. Part
roles say how a part is coloured: `body` carries the object's colour, `inside` may differ, `cap`,
`liquid`, `metal`, `stem` and `wood` are what they say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mm.data.tabletop.mesh import Array, Mesh, disc, line, revolve, section, smooth, tube


@dataclass(frozen=True)
class Part:
    """A mesh with one look."""

    role: str
    mesh: Mesh


@dataclass(frozen=True)
class Shape:
    """An object: its parts, the poses it may rest in, and its hollow (r, z) if it holds things."""

    parts: tuple[Part, ...]
    rests: tuple[str, ...] = ("upright",)
    hollow: Array | None = None
    style: str = ""
    liquid: tuple[float, float] | None = None  # radius and height of the surface of a drink


def wall_profile(outer: Array, wall: float, floor: float) -> tuple[list[Array], Array]:
    """Strips of an open vessel whose outside is `outer` (r, z upwards), and its hollow (r, z)."""
    inner = outer.copy()
    inner[:, 0] = np.maximum(inner[:, 0] - wall, 0.15 * inner[:, 0])
    inner[:, 1] = np.maximum(inner[:, 1], floor)
    inner = inner[np.concatenate([[True], np.diff(inner[:, 1]) > 1e-6])]
    top_r, top_z = outer[-1]
    inner_r = inner[-1, 0]
    mid = (top_r + inner_r) / 2
    rim = np.array([[top_r, top_z], [mid, top_z + wall * 0.45], [inner_r, top_z]])
    down = np.concatenate([inner[::-1], [[inner[0, 0] * 0.5, floor], [0.0, floor]]])
    bottom = np.array([[0.0, 0.0], [outer[0, 0], 0.0]])
    hollow = np.concatenate([[[0.0, floor]], inner])
    return [bottom, outer, rim, down], hollow


def open_vessel(
    outer: Array,
    wall: float,
    floor: float,
    extra: list[Mesh],
    ring: Array,
    fill: float | None,
    style: str = "",
    rests: tuple[str, ...] = ("upright",),
) -> Shape:
    """A cup-like Shape: outside and rim are `body`, the inner wall `inside`."""
    strips, hollow = wall_profile(outer, wall, floor)
    height = float(outer[:, 1].max())
    body = [revolve(*strips[:3], height=height, ring=ring), *extra]
    parts = [Part("body", mesh) for mesh in body]
    parts.append(Part("inside", revolve(strips[3], height=height, ring=ring)))
    liquid = None
    if fill is not None:
        z = floor + fill * (height - floor)
        radius = float(np.interp(z, hollow[:, 1], hollow[:, 0])) * 1.005
        parts.append(Part("liquid", disc(radius, z, ring)))
        liquid = (radius, z)
    return Shape(tuple(parts), rests, hollow, style, liquid)


def handle(outer: Array, low: float, high: float, reach: float, thick: float) -> Mesh:
    """A C-shaped handle on the +x side of a profile, between two heights."""
    r_low = float(np.interp(low, outer[:, 1], outer[:, 0])) - thick * 0.4
    r_high = float(np.interp(high, outer[:, 1], outer[:, 0])) - thick * 0.4
    far = max(r_low, r_high) + reach
    knots = [
        (r_high, 0, high),
        (r_high + reach * 0.55, 0, high + 0.02 * reach),
        (far, 0, high * 0.72 + low * 0.28),
        (far - reach * 0.12, 0, high * 0.35 + low * 0.65),
        (r_low + reach * 0.4, 0, low),
        (r_low, 0, low),
    ]
    return tube(smooth(knots, 18), thick * 0.75, thick * 0.5, up=(0, 1, 0), ring=section(12))


def cup(rng: np.random.Generator) -> Shape:
    """A tumbler or a paper cup: no handle."""
    style = rng.choice(["tumbler", "paper"], p=[0.6, 0.4])
    ring = section(36, power=rng.uniform(2.3, 3.2) if rng.random() < 0.12 else 2.0)
    top = rng.uniform(0.032, 0.047)
    height = top * rng.uniform(2.0, 3.3)
    foot = top * (rng.uniform(0.6, 0.75) if style == "paper" else rng.uniform(0.7, 1.0))
    bend = rng.uniform(-0.05, 0.06) if style == "tumbler" else 0.0
    outer = smooth([(foot, 0), ((foot + top) / 2 * (1 + bend), height / 2), (top, height)], 14)
    lip: list[Mesh] = []
    if style == "paper":
        bead = np.array([[top, height - 0.003], [top + 0.002, height - 0.001], [top, height]])
        lip = [revolve(bead, height=height, ring=ring)]
    fill = rng.uniform(0.4, 0.9) if rng.random() < 0.4 else None
    return open_vessel(
        outer, rng.uniform(0.0012, 0.003), 0.004, lip, ring, fill, str(style), ("upright", "side")
    )


def mug(rng: np.random.Generator) -> Shape:
    """A cup with a handle: straight and tall, or a low tea cup."""
    return tea_cup(rng) if rng.random() < 0.4 else coffee_mug(rng)


def tea_cup(rng: np.random.Generator) -> Shape:
    """Low, wider at the rim, with a small handle."""
    ring = section(36, power=rng.uniform(2.3, 3.2) if rng.random() < 0.12 else 2.0)
    top = rng.uniform(0.037, 0.05)
    height = top * rng.uniform(1.15, 1.6)
    foot = top * rng.uniform(0.5, 0.78)
    belly = rng.uniform(0.74, 0.98)
    outer = smooth(
        [
            (foot, 0),
            (foot * 1.02, height * 0.05),
            (top * belly, height * 0.42),
            (top * (0.5 + belly / 2), height * 0.7),
            (top, height),
        ],
        14,
    )
    grip = handle(
        outer,
        height * rng.uniform(0.2, 0.35),
        height * rng.uniform(0.72, 0.92),
        top * rng.uniform(0.4, 0.75),
        rng.uniform(0.005, 0.009),
    )
    fill = rng.uniform(0.55, 0.92) if rng.random() < 0.6 else None
    return open_vessel(outer, rng.uniform(0.002, 0.0035), 0.005, [grip], ring, fill, "tea")


def coffee_mug(rng: np.random.Generator) -> Shape:
    """Straight and tall, with a large handle."""
    radius = rng.uniform(0.036, 0.047)
    height = radius * rng.uniform(2.05, 2.7)
    foot = radius * rng.uniform(0.9, 1.02)
    waist = radius * rng.uniform(0.94, 1.06)
    corner = rng.uniform(0.93, 1.0)
    outer = smooth(
        [(foot * corner, 0), (foot, height * 0.06), (waist, height * 0.5), (radius, height)], 14
    )
    grip = handle(
        outer,
        height * rng.uniform(0.14, 0.26),
        height * rng.uniform(0.76, 0.9),
        radius * rng.uniform(0.65, 0.95),
        rng.uniform(0.007, 0.012),
    )
    fill = rng.uniform(0.6, 0.92) if rng.random() < 0.45 else None
    return open_vessel(outer, rng.uniform(0.003, 0.005), 0.006, [grip], section(36), fill, "mug")


def bowl(rng: np.random.Generator) -> Shape:
    """An open, rounded bowl, twice as wide as high or more."""
    top = rng.uniform(0.058, 0.105)
    height = top * rng.uniform(0.55, 0.9)
    foot = top * rng.uniform(0.35, 0.6)
    belly = rng.uniform(0.72, 0.93)
    flare = rng.uniform(0.93, 0.99)
    outer = smooth(
        [
            (foot, 0),
            (foot * 1.02, height * 0.07),
            (top * belly, height * 0.45),
            (top * flare, height * 0.8),
            (top, height),
        ],
        16,
    )
    fill = rng.uniform(0.4, 0.75) if rng.random() < 0.12 else None
    return open_vessel(outer, rng.uniform(0.0025, 0.005), 0.006, [], section(44), fill, "bowl")


def plate(rng: np.random.Generator) -> Shape:
    """A flat plate with a raised rim, round or rounded-square."""
    radius = rng.uniform(0.075, 0.135)
    height = radius * rng.uniform(0.09, 0.2)
    well = radius * rng.uniform(0.55, 0.78)
    square = rng.random() < 0.18
    ring = section(44, power=rng.uniform(3.2, 5.0) if square else 2.0)
    outer = smooth([(well * 0.95, 0), (well * 1.08, height * 0.3), (radius, height)], 10)
    shape = open_vessel(outer, rng.uniform(0.003, 0.005), 0.004, [], ring, None, "plate")
    parts = tuple(Part("body", part.mesh) for part in shape.parts)
    return Shape(parts, ("upright",), shape.hollow, "plate")


def bottle(rng: np.random.Generator) -> Shape:
    """A soda, sports, milk, wine, steel or squeezed-waist bottle with its cap."""
    style = str(
        rng.choice(
            ["soda", "sport", "milk", "wine", "steel", "waist"],
            p=[0.25, 0.17, 0.16, 0.1, 0.15, 0.17],
        )
    )
    radius = rng.uniform(0.027, 0.042)
    height = radius * rng.uniform(5.0, 7.6)
    neck = radius * rng.uniform(0.32, 0.48)
    ring = section(36)
    shoulder = rng.uniform(0.66, 0.78)
    if style == "milk":
        height = radius * rng.uniform(3.3, 5.0)
        neck = radius * rng.uniform(0.5, 0.68)
        shoulder = rng.uniform(0.55, 0.68)
    elif style == "wine":
        height = radius * rng.uniform(6.6, 8.4)
        shoulder = rng.uniform(0.55, 0.64)
    elif style in ("sport", "steel"):
        neck = radius * rng.uniform(0.55, 0.82)
        shoulder = rng.uniform(0.74, 0.84)
        height = radius * rng.uniform(5.0, 7.2)
    top = height * rng.uniform(0.9, 0.94)
    if style == "soda":
        dent = rng.uniform(0.86, 0.97)
        low = rng.uniform(0.2, 0.35)
        side = [
            (radius * 0.88, 0),
            (radius, height * 0.07),
            (radius * dent, height * low),
            (radius, height * (low + 0.16)),
            (radius * rng.uniform(0.94, 1.0), height * 0.6),
        ]
        side += [(radius * 0.93, height * shoulder), (neck * 1.25, height * 0.85), (neck, top)]
        if rng.random() < 0.4:
            ring = section(40, lobes=5, depth=0.02)
    elif style == "waist":
        dent = rng.uniform(0.62, 0.82)
        low = rng.uniform(0.38, 0.55)
        side = [
            (radius * 0.85, 0),
            (radius, height * 0.12),
            (radius * dent, height * low),
            (radius * rng.uniform(0.92, 1.0), height * 0.72),
            (neck * 1.2, height * 0.87),
            (neck, top),
        ]
        if rng.random() < 0.3:
            ring = section(40, lobes=int(rng.integers(6, 11)), depth=0.025)
    else:
        body = radius * rng.uniform(0.94, 1.0)
        side = [
            (radius * 0.95, 0),
            (radius, height * 0.03),
            (body, height * 0.3),
            (radius, height * (shoulder - 0.08)),
            (radius * 0.93, height * shoulder),
        ]
        mid = (shoulder + 0.9) / 2 if style != "wine" else shoulder + 0.12
        side += [(neck * (1.3 if style != "steel" else 1.1), height * mid), (neck, top)]
    outer = smooth(side, 34)
    outer[:, 1] = np.maximum.accumulate(outer[:, 1])
    outer[0, 1] = 0.0
    bottom = np.array([[0.0, 0.004], [outer[0, 0] * 0.7, 0.002], [outer[0, 0], 0.0]])
    lid = np.array([[outer[-1, 0], top], [0.0, top]])
    body_mesh = revolve(bottom, outer, lid, height=height, ring=ring)
    wide = neck * rng.uniform(1.1, 1.28) if style != "wine" else neck * 1.12
    tall = height - top + 0.004
    if style in ("sport", "waist"):
        tall = height * rng.uniform(0.07, 0.13)
    start = top - 0.006
    narrow = wide * rng.uniform(0.85, 1.0)
    profile = line([(neck * 0.9, start), (wide, start), (narrow, start + tall), (0, start + tall)])
    cap_mesh = revolve(profile[:3], profile[2:5], profile[4:], height=start + tall)
    parts = [Part("body", body_mesh), Part("cap", cap_mesh)]
    inner = outer[outer[:, 1] < height * rng.uniform(0.4, 0.85)] * [0.93, 1.0] + [0, 0.002]
    closed = np.array([[inner[-1, 0], inner[-1, 1]], [0.0, inner[-1, 1]]])
    parts.append(Part("drink", revolve(inner, closed, height=height, ring=ring)))
    return Shape(tuple(parts), ("upright", "upright", "side"), None, style)


def can(rng: np.random.Generator) -> Shape:
    """A drinks can with drawn-in ends, or a straight food tin."""
    radius = rng.uniform(0.026, 0.034) if rng.random() < 0.7 else rng.uniform(0.034, 0.045)
    slim = radius < 0.034
    height = radius * (rng.uniform(3.3, 4.6) if slim else rng.uniform(1.8, 2.7))
    draw = rng.uniform(0.78, 0.86) if slim else rng.uniform(0.96, 1.0)
    low, high = height * 0.05, height * (0.93 if slim else 0.98)
    side = np.concatenate(
        [
            line([(radius * draw, 0.0), (radius, low)]),
            line([(radius, low), (radius, high)], 8)[1:],
            line([(radius, high), (radius * draw, height * 0.985)])[1:],
        ]
    )
    body_mesh = revolve(np.array([[0, 0.003], [radius * draw, 0.0]]), side, height=height)
    edge = radius * draw
    lid = [
        np.array([[edge, height * 0.985], [edge * 1.03, height], [edge * 0.95, height]]),
        np.array([[edge * 0.95, height], [edge * 0.9, height - 0.004]]),
        np.array([[edge * 0.9, height - 0.004], [edge * 0.4, height - 0.004], [0, height - 0.004]]),
    ]
    lid_mesh = revolve(*lid, height=height)
    tab = tube(
        np.array([[-0.1, 0, 0], [0.3, 0, 0], [0.5, 0, 0]]) * edge + [0, 0, height - 0.003],
        edge * 0.16,
        0.0008,
        ring=section(8),
    )
    parts = [Part("body", body_mesh), Part("metal", lid_mesh)]
    if slim:
        parts.append(Part("metal", tab))
    return Shape(tuple(parts), ("upright", "upright", "side"), None, "can" if slim else "tin")
