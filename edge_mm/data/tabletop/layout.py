"""Which objects a scene has and where they rest: no interpenetration, clusters, things in bowls.

World axes: x and y on the table, z up, the table top at z = 0, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mm.data.tabletop.kinds import KIND_WEIGHTS, color_weights, pick
from edge_mm.data.tabletop.looks import Look, paint
from edge_mm.data.tabletop.mesh import Array
from edge_mm.data.tabletop.scans import scan_look, scan_shape
from edge_mm.data.tabletop.shapes import build, mesh_name
from edge_mm.data.tabletop.splits import HELD_OUT_PAIRS, Rules
from edge_mm.data.tabletop.vessels import Shape
from edge_mm.words import COLORS, KINDS

SCAN_SHARE = 0.5  # of the things whose kind has scans, where packs are asked for


@dataclass(frozen=True)
class Thing:
    """An object of the scene, without its place."""

    kind: str
    color: str | None  # None: several colours (scans only)
    mesh: str
    shape: Shape
    look: Look
    points: Array  # all vertices, [n,3]


@dataclass(frozen=True)
class Pose:
    """Where a thing rests. `inside` is the index of the thing that holds it."""

    rotation: Array
    position: Array
    upright: bool
    inside: int | None = None


@dataclass(frozen=True)
class Footprint:
    """A rectangle on the table: centre, half sizes, and direction of its first side."""

    center: Array
    half: Array
    yaw: float

    @property
    def round(self) -> bool:
        """Nearly as wide as long: treated as a disc."""
        return bool(abs(self.half[0] - self.half[1]) < 0.12 * self.half.max())

    def overlaps(self, other: Footprint, gap: float) -> bool:
        """Whether two footprints come closer than `gap`."""
        apart = other.center - self.center
        if float(np.hypot(*apart)) > np.hypot(*self.half) + np.hypot(*other.half) + gap:
            return False
        if self.round and other.round:
            return bool(np.hypot(*apart) < self.half.max() + other.half.max() + gap)
        axes = [
            np.array([np.cos(a), np.sin(a)])
            for yaw in (self.yaw, other.yaw)
            for a in (yaw, yaw + np.pi / 2)
        ]
        for axis in axes:
            reach = sum(
                foot.half[0] * abs(np.cos(foot.yaw) * axis[0] + np.sin(foot.yaw) * axis[1])
                + foot.half[1] * abs(-np.sin(foot.yaw) * axis[0] + np.cos(foot.yaw) * axis[1])
                for foot in (self, other)
            )
            if abs(float(apart @ axis)) > reach + gap:
                return False
        return True


def choose_things(rules: Rules, count: int, rng: np.random.Generator) -> list[Thing]:
    """`count` things; most repeat a kind or a colour of an earlier one."""
    kind_weights = {kind: KIND_WEIGHTS.get(kind, 1.0) for kind in KINDS}
    things: list[Thing] = []
    while len(things) < count:
        kind = pick(kind_weights, rng)
        color: str | None = None
        if rules.needs_held_out_pair and not things:
            pairs = sorted(HELD_OUT_PAIRS)
            kind, color = pairs[int(rng.integers(len(pairs)))]
        elif things and rng.random() < 0.6:
            earlier = things[int(rng.integers(len(things)))]
            repeat = rng.random()
            if repeat < 0.55:
                kind = earlier.kind
            if repeat > 0.4 and earlier.color in color_weights(kind):
                color = earlier.color
        if color is None:
            weights = {c: w for c, w in color_weights(kind).items() if rules.allows_pair(kind, c)}
            color = pick(weights, rng)
        if not rules.allows_pair(kind, color):
            continue
        scans = [] if rules.needs_held_out_pair and not things else rules.scans_of(kind)
        if scans and rng.random() < SCAN_SHARE:
            scan = scans[int(rng.integers(len(scans)))]
            name, color = scan.name, scan.row.color
            shape, look = scan_shape(scan), scan_look(scan, rng)
        else:
            name = mesh_name(kind, rules.mesh_number(rng))
            shape = build(name)
            look = paint(kind, color, shape, rng)
        points = np.concatenate([part.mesh.vertices for part in shape.parts])
        things.append(Thing(kind, color, name, shape, look, points))
    assert all(thing.color is None or thing.color in COLORS for thing in things)
    return things


def turn(axis: int, angle: float) -> Array:
    """Rotation about x (0), y (1) or z (2)."""
    c, s = float(np.cos(angle)), float(np.sin(angle))
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def _rest(thing: Thing, rng: np.random.Generator) -> tuple[Array, bool]:
    """A resting rotation (before the turn on the table) and whether the thing stands."""
    rest = thing.shape.rests[int(rng.integers(len(thing.shape.rests)))]
    if rest in ("side", "flat"):  # flat: on its broad side, as an oval bottle must
        boxy = thing.kind in ("carton", "box")
        if rest == "flat":
            roll = float(np.pi * rng.integers(2))
        else:
            roll = np.pi / 2 * rng.integers(4) if boxy else rng.uniform(0, 2 * np.pi)
        matrix = turn(0, np.pi / 2) @ turn(2, roll)
        points = thing.points @ matrix.T
        if not boxy:  # let both ends touch the table
            middle = (points[:, 1].max() + points[:, 1].min()) / 2
            ends = [points[side] for side in (points[:, 1] < middle, points[:, 1] >= middle)]
            a, b = (end[end[:, 2].argmin()] for end in ends)
            matrix = turn(0, -float(np.arctan2(b[2] - a[2], b[1] - a[1]))) @ matrix
        return matrix, False
    if rest == "tilt":
        return turn(2, rng.uniform(0, 6.3)) @ turn(0, rng.uniform(-0.5, 0.5)), True
    if rest == "roll":
        return turn(2, rng.uniform(0, 6.3)) @ turn(0, rng.uniform(0, 6.3)) @ turn(
            1, rng.uniform(0, 6.3)
        ), True
    return np.eye(3), True


def _extent(points: Array) -> tuple[Array, Array]:
    """The offset that stands the points on z = 0 at the origin, and their half sizes in x, y."""
    low, high = points.min(0), points.max(0)
    offset = -np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return offset, (high[:2] - low[:2]) / 2


def place(
    things: list[Thing], chosen: list[int], spread: float, rng: np.random.Generator
) -> list[Pose | None]:
    """Poses for the chosen things; None for the rest and for what found no room."""
    poses: list[Pose | None] = [None] * len(things)
    prints: dict[int, Footprint] = {}
    guests: dict[int, list[Footprint]] = {}
    gap = float(rng.choice([0.002, 0.01, 0.03], p=[0.35, 0.4, 0.25]))
    order = sorted(chosen, key=lambda k: things[k].kind not in ("plate", "bowl"))
    for k in order:
        thing = things[k]
        resting, upright = _rest(thing, rng)
        rested = thing.points @ resting.T
        yaw = float(rng.uniform(0, 2 * np.pi))
        offset, half = _extent(rested)
        about_z = turn(2, yaw)
        local = (rested + offset) @ about_z.T
        rotation = about_z @ resting
        base = about_z @ offset
        hosts = [h for h in prints if things[h].kind in ("plate", "bowl") and h != k]
        if hosts and thing.kind not in ("plate", "bowl") and rng.random() < 0.4:
            host = hosts[int(rng.integers(len(hosts)))]
            seat = _seat(things[host], local, half, yaw, guests.setdefault(host, []), rng)
            if seat is not None:
                center = np.append(prints[host].center, 0.0)
                poses[k] = Pose(rotation, base + seat + center, upright, host)
                continue
        for attempt in range(50):
            reach = spread * (1 + attempt / 50)
            if prints and rng.random() < 0.45:  # beside something: clusters and occlusion
                near = list(prints.values())[int(rng.integers(len(prints)))]
                angle, far = (
                    rng.uniform(0, 2 * np.pi),
                    near.half.max() + half.max() + rng.uniform(0, 0.05),
                )
                xy = near.center + far * np.array([np.cos(angle), np.sin(angle)])
            else:
                xy = rng.uniform(-reach, reach, 2) * [1.0, 0.8]
            if float(np.hypot(*xy)) > spread * 1.8:
                continue
            foot = Footprint(xy, half, yaw)
            if any(foot.overlaps(other, gap) for other in prints.values()):
                continue
            prints[k] = foot
            poses[k] = Pose(rotation, base + np.append(xy, 0.0), upright)
            break
    return poses


def _seat(
    host: Thing,
    local: Array,
    half: Array,
    yaw: float,
    taken: list[Footprint],
    rng: np.random.Generator,
) -> Array | None:
    """An offset from the host's origin at which the points rest in its hollow, or None."""
    hollow = host.shape.hollow
    assert hollow is not None
    rim_r, rim_z = hollow[-1]
    size = float(half.max())
    if size > rim_r * (0.8 if host.kind == "bowl" else 0.9):
        return None
    for _ in range(8):
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0, max(rim_r * 0.85 - size, 0.001))
        xy = far * np.array([np.cos(angle), np.sin(angle)])
        foot = Footprint(xy, half, yaw)
        if any(foot.overlaps(other, 0.001) for other in taken):
            continue
        radius = np.hypot(local[:, 0] + xy[0], local[:, 1] + xy[1])
        lift = float((np.interp(radius, hollow[:, 0], hollow[:, 1]) - local[:, 2]).max())
        if lift > rim_z * 0.75 and host.kind == "bowl":
            continue
        taken.append(foot)
        return np.array([xy[0], xy[1], lift])
    return None
