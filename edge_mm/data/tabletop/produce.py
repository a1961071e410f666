"""Shapes of balls and fruit, resting on z = 0 in metres: ball, apple, banana, pear, lemon."""

from __future__ import annotations

import numpy as np

from edge_mm.data.tabletop.mesh import Mesh, revolve, section, smooth, tube
from edge_mm.data.tabletop.vessels import Part, Shape


def ball(rng: np.random.Generator) -> Shape:
    """A sphere, from a golf ball to a small football."""
    radius = rng.uniform(0.02, 0.065)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 25)
    profile = np.stack([radius * np.cos(angle), radius * (1 + np.sin(angle))], 1)
    profile[[0, -1], 0] = 0.0
    return Shape((Part("body", revolve(profile, height=2 * radius)),), ("roll",))


def _stem(height: float, length: float, lean: float, radius: float) -> Mesh:
    path = smooth(
        [(0, 0, height), (lean * 0.3, 0, height + length / 2), (lean, 0, height + length)], 6
    )
    return tube(path, radius, radius, up=(0, 1, 0), ring=section(8))


def apple(rng: np.random.Generator) -> Shape:
    """A round fruit with a dimple and a stem."""
    radius = rng.uniform(0.033, 0.043)
    height = radius * rng.uniform(1.65, 1.95)
    wide = rng.uniform(0.5, 0.62)
    profile = smooth(
        [
            (0, height * 0.06),
            (radius * 0.3, 0.0),
            (radius * 0.78, height * 0.18),
            (radius, height * wide),
            (radius * 0.86, height * 0.85),
            (radius * 0.45, height),
            (radius * 0.15, height * 0.93),
            (0, height * 0.84),
        ],
        26,
    )
    profile[[0, -1], 0] = 0.0
    profile[:, 0] = np.maximum(profile[:, 0], 0)
    profile[:, 1] -= profile[:, 1].min()
    ring = section(36, lobes=5, depth=rng.uniform(0.0, 0.018))
    parts = [Part("body", revolve(profile, height=height, ring=ring))]
    if rng.random() < 0.9:
        lean = rng.uniform(-0.008, 0.008)
        parts.append(
            Part("stem", _stem(height * 0.83, height * rng.uniform(0.22, 0.36), lean, 0.0016))
        )
    return Shape(tuple(parts), ("upright", "tilt"))


def pear(rng: np.random.Generator) -> Shape:
    """A fruit with a wide foot and a narrow shoulder."""
    radius = rng.uniform(0.031, 0.039)
    height = radius * rng.uniform(2.5, 3.1)
    neck = rng.uniform(0.4, 0.55)
    profile = smooth(
        [
            (0, height * 0.03),
            (radius * 0.35, 0),
            (radius * 0.88, height * 0.14),
            (radius, height * 0.3),
            (radius * 0.84, height * 0.5),
            (radius * neck, height * 0.74),
            (radius * neck * 0.85, height * 0.9),
            (radius * 0.2, height * 0.99),
            (0, height * 0.98),
        ],
        28,
    )
    profile[[0, -1], 0] = 0.0
    profile[:, 0] = np.maximum(profile[:, 0], 0)
    profile[:, 1] -= profile[:, 1].min()
    stem = _stem(height * 0.96, height * rng.uniform(0.12, 0.22), rng.uniform(-0.01, 0.01), 0.0017)
    parts = (Part("body", revolve(profile, height=height)), Part("stem", stem))
    return Shape(parts, ("upright", "side"))


def lemon(rng: np.random.Generator) -> Shape:
    """An oval fruit with a nub at each end, lying down."""
    radius = rng.uniform(0.024, 0.031)
    length = radius * rng.uniform(2.7, 3.2)
    nub = rng.uniform(0.16, 0.26)
    profile = smooth(
        [
            (0, 0),
            (radius * nub, length * 0.02),
            (radius * nub * 1.3, length * 0.07),
            (radius * 0.72, length * 0.22),
            (radius, length * 0.5),
            (radius * 0.72, length * 0.78),
            (radius * nub * 1.3, length * 0.93),
            (radius * nub, length * 0.98),
            (0, length),
        ],
        28,
    )
    profile[[0, -1], 0] = 0.0
    profile[:, 0] = np.maximum(profile[:, 0], 0)
    return Shape((Part("body", revolve(profile, height=length)),), ("side",))


def banana(rng: np.random.Generator) -> Shape:
    """A bent tube that lies flat, with a stalk at one end."""
    length = rng.uniform(0.14, 0.2)
    bend = rng.uniform(1.0, 1.9)
    thick = length * rng.uniform(0.085, 0.11)
    s = np.linspace(0, 1, 30)
    angle = (s - 0.5) * bend
    radius = length / bend
    path = np.stack([radius * np.sin(angle), radius * (1 - np.cos(angle)), np.zeros_like(s)], 1)
    knots = [0, 0.04, 0.12, 0.3, 0.6, 0.84, 0.93, 1.0]
    width = np.interp(s, knots, [0.2, 0.34, 0.66, 0.96, 1.0, 0.72, 0.28, 0.2]) * thick
    ring = section(20, lobes=5, depth=rng.uniform(0.02, 0.06))
    mesh = tube(path, width, width, ring=ring)
    return Shape(
        (Part("body", mesh.moved((0, 0, -float(mesh.vertices[:, 2].min())))),), ("upright",)
    )
