"""Triangle meshes from grids of points: surfaces of revolution, tubes, boxes. Pure numpy.

Every surface is a grid of points whose rows run along `i` and whose columns run round `j`, so that
`d/dj x d/di` points outwards. Normals come from the grid; a crease is a border between two grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """Vertices [n,3] in metres, unit normals [n,3], texture coordinates [n,2], faces [m,3]."""

    vertices: Array
    normals: Array
    uv: Array
    faces: NDArray[np.int64]

    def moved(self, offset: Array | tuple[float, ...], rotation: Array | None = None) -> Mesh:
        """The mesh rotated about the origin, then shifted."""
        turn = np.eye(3) if rotation is None else rotation
        vertices = self.vertices @ turn.T + np.asarray(offset)
        return Mesh(vertices, self.normals @ turn.T, self.uv, self.faces)


def join(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
    )


def grid(points: Array, uv: Array, periodic: bool = True) -> Mesh:
    """A mesh from points [n,m,3] and uv [n,m,2]; periodic: the last column equals the first."""
    along = np.gradient(points, axis=0)
    if periodic:
        ring = points[:, :-1]
        around = (np.roll(ring, -1, 1) - np.roll(ring, 1, 1)) / 2
        around = np.concatenate([around, around[:, :1]], 1)
    else:
        around = np.gradient(points, axis=1)
    normals = np.cross(around, along)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    flat = length[..., 0].max(1) < 1e-12  # a row that has shrunk to one point: a pole
    normals = normals / np.maximum(length, 1e-15)
    rows = np.arange(len(points))
    for row in rows[flat]:
        nearest = rows[~flat][np.abs(rows[~flat] - row).argmin()]
        mean = normals[nearest].mean(0)
        normals[row] = mean / max(float(np.linalg.norm(mean)), 1e-9)
    n, m = points.shape[:2]
    corner = (np.arange(n - 1)[:, None] * m + np.arange(m - 1)[None]).ravel()
    faces = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + m + 1], 1),
            np.stack([corner, corner + m + 1, corner + m], 1),
        ]
    )
    flat_points = points.reshape(-1, 3)
    a, b, c = (flat_points[faces[:, k]] for k in range(3))
    faces = faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-14]
    return Mesh(flat_points, normals.reshape(-1, 3), uv.reshape(-1, 2), faces)


def smooth(points: Sequence[tuple[float, ...]], count: int) -> Array:
    """A Catmull-Rom curve through the points, resampled to `count` even steps along its length."""
    knots = np.asarray(points, dtype=float)
    padded = np.concatenate([[2 * knots[0] - knots[1]], knots, [2 * knots[-1] - knots[-2]]])
    t = np.linspace(0, 1, 12, endpoint=False)[:, None]
    parts = []
    for p0, p1, p2, p3 in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        cubic = 3 * (p1 - p2) + p3 - p0
        parts.append(
            0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + cubic * t**3)
        )
    dense = np.concatenate([*parts, knots[-1:]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    steps = np.linspace(0, length[-1], count)
    return np.stack([np.interp(steps, length, dense[:, k]) for k in range(dense.shape[1])], 1)


def line(points: list[tuple[float, float]], per_side: int = 2) -> Array:
    """A polyline with `per_side` steps on each side (no smoothing)."""
    knots = np.asarray(points, dtype=float)
    steps = np.linspace(0, len(knots) - 1, (len(knots) - 1) * per_side + 1)
    return np.stack([np.interp(steps, np.arange(len(knots)), knots[:, k]) for k in (0, 1)], 1)


def section(count: int, power: float = 2.0, lobes: int = 0, depth: float = 0.0) -> Array:
    """Unit cross-section [count+1,2]: a circle, a rounded square (power > 2) or a fluted circle."""
    theta = np.linspace(0, 2 * np.pi, count + 1)
    c, s = np.cos(theta), np.sin(theta)
    radius = (np.abs(c) ** power + np.abs(s) ** power) ** (-1 / power)
    radius = radius * (1 + depth * np.cos(lobes * theta))
    return np.stack([radius * c, radius * s], 1)


def revolve(*strips: Array, height: float | None = None, ring: Array | None = None) -> Mesh:
    """Profiles (r, z), each smooth in itself, turned about z; v = z / height, u = angle."""
    ring = section(36) if ring is None else ring
    top = height or max(float(strip[:, 1].max()) for strip in strips) or 1.0
    u = np.linspace(0, 1, len(ring))
    meshes = []
    for strip in strips:
        r, z = strip[:, 0], strip[:, 1]
        points = np.empty((len(strip), len(ring), 3))
        points[..., :2] = r[:, None, None] * ring[None]
        points[..., 2] = z[:, None]
        v = np.broadcast_to((z / top)[:, None], points.shape[:2])
        meshes.append(grid(points, np.stack([np.broadcast_to(u, v.shape), v], -1)))
    return join(*meshes)


def disc(radius: float, z: float, ring: Array | None = None) -> Mesh:
    """A horizontal disc that faces up; v runs from rim to centre."""
    strip = np.array([[radius, z], [radius * 0.5, z], [0, z]])
    return revolve(strip, height=1.0, ring=ring)


def tube(
    path: Array,
    a: Array | float,
    b: Array | float,
    up: tuple[float, float, float] = (0, 0, 1),
    caps: bool = True,
    ring: Array | None = None,
) -> Mesh:
    """A tube along path [n,3] with half widths a (sideways) and b (along `up`); v runs along it."""
    ring = section(20) if ring is None else ring
    n = len(path)
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(np.asarray(up, float), tangent)
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    normal = np.cross(tangent, side)
    half_a = np.broadcast_to(np.asarray(a, float), (n,))
    half_b = np.broadcast_to(np.asarray(b, float), (n,))
    rings = (
        path[:, None]
        + (half_a[:, None] * ring[None, :, 0])[..., None] * side[:, None]
        + (half_b[:, None] * ring[None, :, 1])[..., None] * normal[:, None]
    )
    u = np.linspace(0, 1, len(ring))
    v = np.linspace(0, 1, n)
    meshes = [grid(rings, np.stack(np.meshgrid(u, v), -1))]
    if caps:
        for row, end in ((0, True), (n - 1, False)):
            middle = np.broadcast_to(path[row], rings[row].shape)
            points = np.stack([middle, rings[row]] if end else [rings[row], middle])
            meshes.append(grid(points, np.full((*points.shape[:2], 2), v[row])))
    return join(*meshes)


def quad(corners: Array, uv: Array, steps: int = 6) -> Mesh:
    """A flat four-cornered patch (counter-clockwise seen from its front), finely divided."""
    s, t = np.meshgrid(np.linspace(0, 1, steps), np.linspace(0, 1, steps))
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], -1)
    return grid(weights @ corners, weights @ uv, periodic=False)


def box(size: tuple[float, float, float], top_band: bool = False) -> Mesh:
    """A box on z = 0. Sides take u in quarters and v up to 0.8; top and bottom have the rest."""
    x, y, z = size[0] / 2, size[1] / 2, size[2]
    low = np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]])
    high = low + np.array([0, 0, z])
    meshes = []
    for k in range(4):
        n = (k + 1) % 4
        uv = np.array([[k / 4, 0], [(k + 1) / 4, 0], [(k + 1) / 4, 0.8], [k / 4, 0.8]])
        meshes.append(quad(np.stack([low[k], low[n], high[n], high[k]]), uv))
    lid = np.array([[0.01, 0.82], [0.24, 0.82], [0.24, 0.99], [0.01, 0.99]])
    if not top_band:
        meshes.append(quad(high, lid))
    meshes.append(quad(low[::-1], lid))
    return join(*meshes)
