"""Shapes of packages standing on z = 0, in metres: a box, and a milk carton with its gable top."""

from __future__ import annotations

import numpy as np

from edge_mm.data.tabletop.mesh import Array, Mesh, box, disc, join, line, quad, revolve, section
from edge_mm.data.tabletop.vessels import Part, Shape

PLAIN = np.array([[0.02, 0.84], [0.2, 0.84], [0.2, 0.98], [0.02, 0.98]])  # the unprinted strip


def package(rng: np.random.Generator) -> Shape:
    """A cuboid: a cube, a flat packet, or a cereal box."""
    style = str(rng.choice(["cube", "flat", "tall", "any"], p=[0.25, 0.25, 0.25, 0.25]))
    base = rng.uniform(0.04, 0.12)
    low, high = {"cube": (0.9, 1.1), "flat": (0.25, 0.5), "tall": (1.3, 1.9), "any": (0.4, 1.3)}[
        style
    ]
    depth = rng.uniform(0.3, 0.45) if style == "tall" else rng.uniform(0.6, 1.1)
    size = (base, base * (1.0 if style == "cube" else depth), base * rng.uniform(low, high))
    rests = ("upright", "side") if style == "tall" else ("upright",)
    return Shape((Part("body", box(size)),), rests, None, style)


def _triangle(corners: Array) -> Mesh:
    return quad(np.concatenate([corners, corners[:1]])[[0, 1, 2, 2]], PLAIN, 3)


def carton(rng: np.random.Generator) -> Shape:
    """A drinks carton: square body, two sloping roof panels, and a fin along the ridge."""
    width = rng.uniform(0.055, 0.095)
    depth = width * rng.uniform(0.85, 1.0)
    height = width * rng.uniform(1.3, 2.7)
    rise = width * rng.uniform(0.3, 0.45)
    fin = width * rng.uniform(0.12, 0.22)
    x, y, top = width / 2, depth / 2, height + rise
    thin = depth * 0.025
    body = box((width, depth, height), top_band=True)
    printed = np.array([[0.0, 0.8], [0.25, 0.8], [0.25, 0.98], [0.0, 0.98]])
    roof: list[Mesh] = []
    for k, side in enumerate((-1, 1)):
        corners = np.array(
            [
                [side * -x, side * y, height],
                [side * x, side * y, height],
                [side * x, side * thin, top],
                [side * -x, side * thin, top],
            ]
        )
        wound = corners if side < 0 else corners[[1, 0, 3, 2]]
        wound = _outward(wound, np.array([0, side, 1.0]))
        roof.append(quad(wound, printed + np.array([0.5 * k, 0])))
        tuck = x * rng.uniform(0.55, 0.75)
        ends = np.array([[side * x, -y, height], [side * x, y, height], [side * tuck, 0, top]])
        roof.append(_triangle(_outward(ends, np.array([side, 0, 0.3]))))
        for other in (-1, 1):
            cheek = np.array(
                [
                    [side * x, other * y, height],
                    [side * x, other * thin, top],
                    [side * tuck, 0, top],
                ]
            )
            roof.append(_triangle(_outward(cheek, np.array([side, -other * 0.5, 0.2]))))
    ridge = box((width, 2 * thin, fin)).moved((0, 0, top))
    ridge = Mesh(ridge.vertices, ridge.normals, ridge.uv * 0 + [0.1, 0.9], ridge.faces)
    parts = [Part("body", join(body, *roof)), Part("fin", ridge)]
    if rng.random() < 0.4:
        radius = width * rng.uniform(0.12, 0.17)
        slope = np.arctan2(rise, y)
        c, s = np.cos(slope), np.sin(slope)
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        tall = radius * 0.9
        knob = join(
            revolve(line([(radius, -0.002), (radius, tall)]), ring=section(20)),
            disc(radius, tall, section(20)),
        )
        parts.append(Part("cap", knob.moved((0, -y * 0.5, height + rise * 0.5), turn)))
    return Shape(tuple(parts), ("upright", "upright", "side"), None, "gable")


def _outward(corners: Array, direction: Array) -> Array:
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    return corners if float(normal @ direction) > 0 else corners[::-1].copy()
