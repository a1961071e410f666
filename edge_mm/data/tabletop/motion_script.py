"""Who moves where in a rendered sequence: four things on two lanes, and a camera that drifts.

Seen by the camera, with x to the right and y away from it:

    far lane     steady (stands still) and slider (to and fro, turning; of the same kind)
    near lane    leaver (out of the frame to the right, and back) and passer (comes in from the
                 left, and stands in front of the steady thing for a while: an occlusion)

The lanes are wide enough that nothing runs into anything. Times are shares of the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mm.data.tabletop.camera import Camera
from edge_mm.data.tabletop.layout import Pose, Thing, choose_things, turn
from edge_mm.data.tabletop.mesh import Array
from edge_mm.data.tabletop.splits import Rules

ROLES = ("steady", "slider", "leaver", "passer")
# Times at which a thing begins and ends to move; the camera never rests.
SLIDES = (0.1, 0.5, 0.55, 0.95)
LEAVES, RETURNS = (0.12, 0.4), (0.62, 0.9)
COMES, GOES = (0.3, 0.5), (0.68, 0.95)
GAP_M = 0.015
BESIDE_M = 0.05  # between the two things of the far lane


@dataclass(frozen=True)
class Plan:
    """One sequence: things in the order of ROLES, where each goes, and how the camera moves.

    places    role -> its stops on the table [n,2], metres
    drift     radians to the left, radians upwards, share of the distance: over the sequence
    """

    things: list[Thing]
    places: dict[str, Array]
    azimuth: float
    elevation: float
    distance: float
    fov_deg: float
    drift: tuple[float, float, float]
    spin: float  # radians that the slider turns


def cast(rules: Rules, rng: np.random.Generator) -> list[Thing]:
    """Two upright things of one kind but two colours, and two of other kinds, colours all apart."""
    while True:
        drawn = [t for t in choose_things(rules, 10, rng) if "upright" in t.shape.rests]
        for first in drawn:
            second = next((t for t in drawn if t.kind == first.kind and t.color != first.color), 0)
            if not second:
                continue
            others: list[Thing] = []
            for thing in drawn:
                taken = [first, second, *others]
                if _family(thing.kind) not in [_family(t.kind) for t in taken] and (
                    thing.color not in [t.color for t in taken]
                ):
                    others.append(thing)
            if len(others) >= 2:
                low, high = sorted(others[:2], key=_height)
                # The lower one of the pair stands behind the taller one of the others.
                return [*sorted((first, second), key=_height), low, high]


def plan(rules: Rules, size: tuple[int, int], rng: np.random.Generator) -> Plan:
    """Draw things, lanes and a camera that has the far lane and the leaver in its frame."""
    things = cast(rules, rng)
    radius = [_radius(thing) for thing in things]
    steady, slider, leaver, passer = radius
    lane = max(steady, slider) + max(leaver, passer) + GAP_M
    left = np.array([-(steady + BESIDE_M), 0.0])
    right = np.array([slider + BESIDE_M, 0.0])
    reach = np.array([slider + rng.uniform(0.08, 0.16), 0.0])
    seat = np.array([max(right[0], left[0] + passer + leaver + 0.1), -lane])
    azimuth = float(rng.uniform(0, 2 * np.pi))
    elevation = float(np.radians(rng.uniform(24, 38)))
    fov = float(rng.uniform(42, 58))
    drift = (
        float(np.radians(rng.uniform(6, 12) * rng.choice([-1, 1]))),
        float(np.radians(rng.uniform(-2, 2))),
        float(rng.uniform(-0.06, 0.06)),
    )
    shown = {"steady": left, "slider": right, "leaver": seat}
    cloud = np.concatenate(
        [_stand(t, shown[role], 0.0).apply(t) for t, role in zip(things, shown, strict=False)]
        + [_stand(things[1], right + reach, 0.0).apply(things[1])]
    )
    distance = _distance(cloud, size, fov, elevation, coverage=float(rng.uniform(0.72, 0.86)))
    # Well beyond the frame's edge
    away = np.array([distance * 1.375 * np.tan(np.radians(fov) / 2) + 0.1, 0.0])
    # Where the line of sight from the camera to the steady thing crosses the near lane
    middle = (cloud.max(0) + cloud.min(0))[:2] / 2
    ground = distance * np.cos(elevation)
    front = np.array([left[0] + (middle[0] - left[0]) * lane / ground, -lane])
    places = {
        "steady": left[None],
        "slider": np.stack([right, right + reach, right]),
        "leaver": np.stack([seat, seat + away, seat]),
        "passer": np.stack([front - away, front, front - away]),
    }
    spin = float(rng.uniform(-0.6, 0.6))
    return Plan(things, places, azimuth, elevation, distance, fov, drift, spin)


def poses(script: Plan, share: float) -> list[Pose]:
    """Where everything stands at this share (0..1) of the sequence, world axes."""
    places = script.places
    slid = _to_and_fro(places["slider"], share, SLIDES)
    spots = {
        "steady": places["steady"][0],
        "slider": slid,
        "leaver": _to_and_fro(places["leaver"], share, LEAVES + RETURNS),
        "passer": _to_and_fro(places["passer"], share, COMES + GOES),
    }
    world = turn(2, script.azimuth)
    found = []
    for role, thing in zip(ROLES, script.things, strict=True):
        yaw = script.spin * _eased(share, SLIDES[0], SLIDES[3]) if role == "slider" else 0.0
        stood = _stand(thing, spots[role], yaw)
        found.append(Pose(world @ stood.rotation, world @ stood.position, True))
    return found


def camera(script: Plan, size: tuple[int, int], share: float) -> Camera:
    """The camera at this share of the sequence; it looks at the middle between the lanes."""
    phase = float(np.sin(np.pi * share))
    left, up, back = (amount * phase for amount in script.drift)
    target = turn(2, script.azimuth) @ np.array([*_middle(script), 0.03])
    return orbit(
        size,
        script.fov_deg,
        script.azimuth + left,
        script.elevation + up,
        script.distance * (1 + back),
        target,
    )


def orbit(
    size: tuple[int, int],
    fov_deg: float,
    azimuth: float,
    elevation: float,
    distance: float,
    target: Array,
) -> Camera:
    """A level camera that looks at `target`; at azimuth 0 its right is the world's x."""
    focal = max(size) / 2 / np.tan(np.radians(fov_deg) / 2)
    right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    ahead = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    forward = ahead * np.cos(elevation) - np.array([0.0, 0.0, np.sin(elevation)])
    rotation = np.stack([right, np.cross(forward, right), forward], 1)
    return Camera(*size, float(focal), rotation, target - forward * distance)


@dataclass(frozen=True)
class _Stood:
    rotation: Array
    position: Array

    def apply(self, thing: Thing) -> Array:
        return thing.points @ self.rotation.T + self.position


def _stand(thing: Thing, spot: Array, yaw: float) -> _Stood:
    """Upright, the middle of its footprint at `spot`."""
    low, high = thing.points.min(0), thing.points.max(0)
    rotation = turn(2, yaw)
    middle = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    return _Stood(rotation, np.array([*spot, 0.0]) - rotation @ middle)


def _to_and_fro(stops: Array, share: float, times: tuple[float, ...]) -> Array:
    """From the first stop to the second and on to the third; each way is eased."""
    there, back = _eased(share, *times[:2]), _eased(share, *times[2:])
    spot: Array = stops[0] + (stops[1] - stops[0]) * there + (stops[2] - stops[1]) * back
    return spot


def _eased(share: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, with minimum jerk in between (Flash and Hogan 1985)."""
    t = float(np.clip((share - start) / (end - start), 0, 1))
    return t**3 * (10 - 15 * t + 6 * t * t)


def _distance(
    cloud: Array, size: tuple[int, int], fov_deg: float, elevation: float, coverage: float
) -> float:
    """How far the camera must be so that the points span this share of the half frame."""
    target = np.array([*((cloud.max(0) + cloud.min(0)) / 2)[:2], 0.03])
    half = np.array(size) / 2
    for distance in np.geomspace(0.2, 3.0, 60):
        seen = orbit(size, fov_deg, 0.0, elevation, float(distance), target)
        if seen.to_camera(cloud)[:, 2].min() < 0.08:
            continue
        if float((np.abs(seen.project(cloud) - half) / half).max()) <= coverage:
            return float(distance)
    return 3.0


def _middle(script: Plan) -> Array:
    shown = np.concatenate(
        [script.places["steady"], script.places["slider"], script.places["leaver"][:1]]
    )
    middle: Array = (shown.max(0) + shown.min(0)) / 2
    return middle


def _family(kind: str) -> str:
    return "cup" if kind == "mug" else kind  # a mug is a cup with a handle


def _radius(thing: Thing) -> float:
    """Of the circle on the table that holds the thing however it turns."""
    low, high = thing.points[:, :2].min(0), thing.points[:, :2].max(0)
    return float(np.linalg.norm(thing.points[:, :2] - (low + high) / 2, axis=1).max())


def _height(thing: Thing) -> float:
    return float(np.ptp(thing.points[:, 2]))
