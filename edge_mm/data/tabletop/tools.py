"""Shapes lying on z = 0, in metres: hammer, screwdriver, wrench, spoon, marker."""

from __future__ import annotations

import numpy as np

from edge_mm.data.tabletop.mesh import Array, Mesh, grid, join, line, revolve, section, smooth, tube
from edge_mm.data.tabletop.vessels import Part, Shape

TO_X = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # turns the z axis onto x


def _grounded(*parts: Part) -> Shape:
    low = min(float(part.mesh.vertices[:, 2].min()) for part in parts)
    return Shape(tuple(Part(part.role, part.mesh.moved((0, 0, -low))) for part in parts))


def _straight(start: float, end: float, z: float = 0.0, count: int = 10) -> Array:
    x = np.linspace(start, end, count)
    return np.stack([x, np.zeros_like(x), np.full_like(x, z)], 1)


def hammer(rng: np.random.Generator) -> Shape:
    """A handle along x with a head across it: a face on one side, a claw or wedge opposite."""
    length = rng.uniform(0.2, 0.32)
    grip = length * rng.uniform(0.045, 0.062)
    s = np.linspace(0, 1, 14)
    width = grip * np.interp(s, [0, 0.1, 0.5, 0.75, 1], [0.95, 1.0, 0.9, 0.72, 0.75])
    shaft = tube(_straight(0, length, count=14), width, width * 0.8, ring=section(16, power=2.6))
    face = length * rng.uniform(0.055, 0.075)
    reach = length * rng.uniform(0.15, 0.2)
    at = length * 0.96
    y = np.linspace(-reach, reach * 0.3, 12)
    barrel = np.stack([np.full_like(y, at), y, np.zeros_like(y)], 1)
    neck = face * np.interp(
        (y + reach) / (1.3 * reach), [0, 0.16, 0.2, 0.4, 0.7, 1], [1, 1, 0.7, 0.7, 0.95, 0.9]
    )
    heads: list[Mesh] = [tube(barrel, neck, neck, ring=section(16, power=3.0))]
    if rng.random() < 0.7:
        for side in (-1, 1):
            knots = [
                (at + side * face * 0.4, reach * 0.25, 0),
                (at + side * face * 0.5, reach * 0.7, -face * 0.1),
                (at + side * face * 0.7, reach * 1.15, -face * 0.7),
            ]
            path = smooth(knots, 10)
            taper = np.linspace(0.5, 0.14, 10) * face
            heads.append(tube(path, face * 0.36, taper, ring=section(10, power=3.0)))
    else:
        y = np.linspace(reach * 0.25, reach * 1.0, 6)
        wedge = np.stack([np.full_like(y, at), y, np.zeros_like(y)], 1)
        heads.append(
            tube(wedge, face * 0.8, np.linspace(0.85, 0.1, 6) * face, ring=section(12, power=4))
        )
    return _grounded(Part("body", shaft), Part("metal", join(*heads)))


def screwdriver(rng: np.random.Generator) -> Shape:
    """A thick fluted handle and a thin metal blade."""
    length = rng.uniform(0.15, 0.24)
    grip = length * rng.uniform(0.42, 0.56)
    radius = rng.uniform(0.011, 0.016)
    profile = smooth(
        [
            (radius * 0.6, 0),
            (radius, grip * 0.08),
            (radius * 1.02, grip * 0.5),
            (radius * 0.8, grip * 0.72),
            (radius * 0.95, grip * 0.86),
            (radius * 0.45, grip),
        ],
        20,
    )
    ring = section(36, lobes=6, depth=rng.uniform(0.03, 0.08))
    ends = np.array([[0, 0], [radius * 0.6, 0]]), np.array([[radius * 0.45, grip], [0, grip]])
    handle = revolve(ends[0], profile, ends[1], height=grip, ring=ring).moved((0, 0, 0), TO_X)
    blade = rng.uniform(0.0028, 0.004)
    shaft = tube(_straight(grip, length * 0.96), blade, blade, ring=section(10))
    tip_path = _straight(length * 0.95, length, count=5)
    tip = tube(
        tip_path,
        np.linspace(1, 1.5, 5) * blade,
        np.linspace(1, 0.25, 5) * blade,
        ring=section(10, 4),
    )
    return _grounded(Part("body", handle), Part("metal", join(shaft, tip)))


def wrench(rng: np.random.Generator) -> Shape:
    """A flat bar with an open jaw at one end and a ring or a second jaw at the other."""
    length = rng.uniform(0.14, 0.24)
    width = length * rng.uniform(0.045, 0.06)
    thick = length * rng.uniform(0.022, 0.03)
    flat = section(12, power=5.0)
    pieces = [tube(_straight(-length * 0.36, length * 0.36), width, thick, ring=flat)]
    jaw = length * rng.uniform(0.085, 0.105)

    def arc(centre: float, start: float, end: float, radius: float) -> Array:
        angle = np.linspace(start, end, 20)
        x, y = centre + radius * np.cos(angle), radius * np.sin(angle)
        return np.stack([x, y, np.zeros_like(x)], 1)

    gap = rng.uniform(0.62, 0.85)
    turn = rng.uniform(-0.3, 0.3)
    centre = length * 0.42
    band = np.interp(np.linspace(0, 1, 20), [0, 0.25, 0.75, 1], [0.62, 1, 1, 0.62]) * jaw * 0.42
    jaw_path = arc(centre, turn + gap, turn + 2 * np.pi - gap, jaw)
    pieces.append(tube(jaw_path, band, thick * 1.25, ring=flat))
    if rng.random() < 0.65:
        radius = jaw * rng.uniform(0.68, 0.85)
        pieces.append(
            tube(
                arc(-length * 0.42, 0, 2 * np.pi, radius),
                radius * 0.36,
                thick * 1.3,
                caps=False,
                ring=flat,
            )
        )
    else:
        path = arc(-length * 0.42, np.pi + gap, 3 * np.pi - gap, jaw * 0.85)
        pieces.append(tube(path, band * 0.85, thick * 1.2, ring=flat))
    return _grounded(Part("body", join(*pieces)))


def spoon(rng: np.random.Generator) -> Shape:
    """A hollowed oval bowl on a long, slightly bent handle."""
    length = rng.uniform(0.13, 0.24)
    head = rng.uniform(0.28, 0.36)
    wide = length * rng.uniform(0.095, 0.125)
    thin = length * rng.uniform(0.018, 0.026)
    s = np.concatenate([np.linspace(0, head, 16), np.linspace(head, 1, 14)[1:]])
    oval = np.sqrt(np.clip(1 - ((s - head / 2) / (head / 2)) ** 2, 0, 1)) * wide
    stalk = np.interp(
        s, [0, head - 0.02, head + 0.04, 0.85, 1], [0, thin, thin * 0.9, thin * 1.5, thin * 1.2]
    )
    half = np.maximum(np.maximum(oval, stalk), wide * 0.06)
    in_bowl = np.clip(oval / wide, 0, 1) * (s < head)
    lift = np.interp(s, [0, head, head + 0.12, 1], [0.0, 0.0, 0.05, 0.025]) * length * 1.3
    ring = section(20, power=2.4)
    thick = length * 0.009
    depth = wide * rng.uniform(0.38, 0.55)
    points = np.empty((len(s), len(ring), 3))
    points[..., 0] = (s * length)[:, None]
    points[..., 1] = half[:, None] * ring[None, :, 0]
    sink = depth * in_bowl[:, None] * (1 - np.minimum(np.abs(ring[None, :, 0]), 1) ** 2)
    points[..., 2] = lift[:, None] + thick * ring[None, :, 1] - sink
    v = np.broadcast_to(s[:, None], points.shape[:2])
    u = np.broadcast_to(np.linspace(0, 1, len(ring)), v.shape)
    start, end = points[:1].mean(1, keepdims=True), points[-1:].mean(1, keepdims=True)
    closed = np.concatenate([np.repeat(start, len(ring), 1), points, np.repeat(end, len(ring), 1)])
    v = np.concatenate([v[:1], v, v[-1:]])
    u = np.concatenate([u[:1], u, u[-1:]])
    return _grounded(Part("body", grid(closed, np.stack([u, v], -1))))


def marker(rng: np.random.Generator) -> Shape:
    """A felt-tip pen with its cap on."""
    length = rng.uniform(0.11, 0.15)
    radius = rng.uniform(0.0065, 0.011)
    cut = length * rng.uniform(0.6, 0.7)
    body = [
        line([(0, 0), (radius * 0.8, 0)]),
        line([(radius * 0.8, 0), (radius, 0.006)]),
        line([(radius, 0.006), (radius, cut)], 6),
        line([(radius, cut), (0, cut)]),
    ]
    wide = radius * rng.uniform(1.05, 1.18)
    cap = [
        line([(radius * 0.9, cut), (wide, cut)]),
        line([(wide, cut), (wide * 0.92, length * 0.96)], 4),
        line([(wide * 0.92, length * 0.96), (wide * 0.6, length)]),
        line([(wide * 0.6, length), (0, length)]),
    ]
    ring = section(24)
    parts = [Part("body", revolve(*body, height=length, ring=ring).moved((0, 0, 0), TO_X))]
    parts.append(Part("cap", revolve(*cap, height=length, ring=ring).moved((0, 0, 0), TO_X)))
    if rng.random() < 0.6:
        clip = _straight(cut, length * 0.93, wide * 1.15)
        parts.append(Part("cap", tube(clip, radius * 0.28, radius * 0.14, ring=section(8, 4))))
    return _grounded(*parts)
