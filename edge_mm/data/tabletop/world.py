"""One sample from three numbers: (seed, split, index) -> picture, segmentation, depth, labels.

Two neighbouring indices share a compiled scene (the same things and textures) but nothing else:
each has its own layout, camera, lights and photo noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_mm.data.tabletop import stage
from edge_mm.data.tabletop.annotate import annotate
from edge_mm.data.tabletop.camera import Camera, aim
from edge_mm.data.tabletop.layout import Thing, choose_things, place
from edge_mm.data.tabletop.mesh import Array
from edge_mm.data.tabletop.packs import Scan
from edge_mm.data.tabletop.photo import develop
from edge_mm.data.tabletop.render import Scene, Studio, View
from edge_mm.data.tabletop.splits import HELD_OUT_PAIRS, Rules, scene_seed
from edge_mm.data.tabletop.textures import Image

VIEWS = 2
ATTEMPTS = 60
COUNT_SHARE = (0.06, 0.1, 0.15, 0.17, 0.17, 0.14, 0.1, 0.05, 0.03, 0.03)  # 1..10 things

MIN_SPAN, MIN_MEDIAN_SPAN = 14.0, 28.0  # pixels: farther away, a person could not name them


@dataclass(frozen=True)
class Sample:
    """A finished picture and its truth."""

    image: Image
    segmentation: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    jpeg_quality: int
    label: dict[str, Any]


def render_pair(
    studio: Studio, seed: int, split: str, first: int, scans: tuple[Scan, ...] = ()
) -> Iterator[tuple[int, Sample]]:
    """The samples `first` (even) and `first + 1`; with `scans`, some things are scanned ones."""
    rules = Rules(split, scans)
    rng = np.random.default_rng([11, scene_seed(seed, split, first)])
    count = 1 + int(rng.choice(len(COUNT_SHARE), p=COUNT_SHARE))
    things = choose_things(rules, max(count, 2), rng)
    sizes = [float(np.ptp(thing.points[:, :2], axis=0).max()) for thing in things]
    spread = float(np.sqrt(sum(size**2 for size in sizes)) * rng.uniform(0.5, 1.0))
    surface, props = stage.table(rng, rules, spread, {thing.color for thing in things})
    props.append(stage.walls(rng))
    if rng.random() < 0.35:
        props.append(stage.backdrop(rng))
    if rng.random() < 0.07:
        props.append(stage.gripper(rng))
    with studio.open(things, props) as scene:
        for index in range(first, first + VIEWS):
            sample_seed = scene_seed(seed, split, index)
            view_rng = np.random.default_rng([13, sample_seed])
            yield (
                index,
                _sample(scene, things, rules, count, spread, surface, props, sample_seed, view_rng),
            )


def _sample(
    scene: Scene,
    things: list[Thing],
    rules: Rules,
    count: int,
    spread: float,
    surface: str,
    props: list[stage.Prop],
    sample_seed: int,
    rng: np.random.Generator,
) -> Sample:
    for _ in range(ATTEMPTS):
        view = _view(things, rules, count, spread, props, rng)
        if view is None:
            continue
        scene.arrange(view)
        truth = annotate(scene, view, things)
        if truth is not None and _valid(truth[0], rules):
            break
    else:
        raise RuntimeError(f"no valid view of scene {sample_seed} in {ATTEMPTS} attempts")
    objects, segmentation, depth = truth
    image = develop(scene.photograph(view), rng)
    camera = view.camera
    label = {
        "width": camera.width,
        "height": camera.height,
        "seed": sample_seed,
        "camera": {
            "fx": round(camera.focal, 3),
            "fy": round(camera.focal, 3),
            "cx": camera.width / 2,
            "cy": camera.height / 2,
            "world_from_camera": camera.world_from_camera(),
        },
        "surface": surface,
        "objects": objects,
    }
    return Sample(image, segmentation, depth, int(rng.integers(60, 96)), label)


def _valid(objects: list[dict[str, Any]], rules: Rules) -> bool:
    """Something is in view, and a held-out pair where the split asks for one."""
    pairs = {(item["kind"], item["color"]) for item in objects}
    return bool(objects) and (not rules.needs_held_out_pair or bool(pairs & HELD_OUT_PAIRS))


def _view(
    things: list[Thing],
    rules: Rules,
    count: int,
    spread: float,
    props: list[stage.Prop],
    rng: np.random.Generator,
) -> View | None:
    close = rng.random() < 0.2
    chosen = list(range(min(count, len(things))))
    if close:
        number = int(rng.integers(1, 3))
        keep_first = [0] if rules.needs_held_out_pair else []
        others = [k for k in range(len(things)) if k not in keep_first]
        picked = rng.permutation(others)[: max(0, number - len(keep_first))]
        chosen = keep_first + [int(k) for k in picked]
    poses = place(things, chosen, spread * (0.4 if close else 1.0), rng)
    placed = [
        thing.points[::5] @ pose.rotation.T + pose.position
        for thing, pose in zip(things, poses, strict=True)
        if pose is not None
    ]
    if not placed:
        return None
    fov, elevation = rules.camera(rng)
    coverage = rng.uniform(0.65, 0.98) if close else rng.uniform(0.62, 1.12)
    shift = rng.normal(0, 0.04 if close else 0.12, 2) * min(1.0, 1.4 - coverage)
    camera = aim(np.concatenate(placed), fov, elevation, float(coverage), shift, rng)
    cloud = np.concatenate(placed)
    if float(np.linalg.norm(cloud - camera.position, axis=1).min()) < 0.07:
        return None
    spans = [float(np.ptp(camera.project(points), axis=0).max()) for points in placed]
    if min(spans) < MIN_SPAN or float(np.median(spans)) < MIN_MEDIAN_SPAN:
        return None
    ambient, lights = stage.lights(rng)
    where = _props(props, camera, cloud, rng)
    return View(poses, where, camera, ambient, lights)


def _props(
    props: list[stage.Prop], camera: Camera, cloud: Array, rng: np.random.Generator
) -> dict[str, tuple[Array, float]]:
    """Where the furniture is in this view; walls and backdrop turn with the camera."""
    forward = camera.rotation[:, 2]
    azimuth = float(np.arctan2(forward[1], forward[0])) + rng.uniform(-0.35, 0.35)
    here: dict[str, tuple[Array, float]] = {}
    for prop in props:
        if prop.name == "walls":
            here["walls"] = (np.zeros(3), azimuth)
        elif prop.name == "backdrop":
            ahead = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
            far = float((cloud @ ahead).max()) + rng.uniform(0.04, 0.4)
            here["backdrop"] = (ahead * far, azimuth + np.pi)
        elif prop.name == "gripper":
            top = float(cloud[:, 2].max()) + rng.uniform(0.01, 0.1)
            here["gripper"] = (np.array([*rng.uniform(-0.15, 0.15, 2), top]), rng.uniform(0, 6.3))
        else:
            here[prop.name] = (np.zeros(3), 0.0)
    return here
