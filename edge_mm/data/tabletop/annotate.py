"""Truth from the segmentation: visible boxes, how much is visible, a grasp point, sizes.

`visible` is (visible pixels / pixels of the object drawn alone) x (share of its vertices that
project into the frame). Objects below MIN_PIXELS or MIN_VISIBLE are left out and their pixels
become background.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mm.data.tabletop.layout import Thing
from edge_mm.data.tabletop.render import Scene, View

MIN_PIXELS = 40
MIN_VISIBLE = 0.15
MIN_COLORED = 0.22  # share of the visible pixels in the object's colour (not lid, drink, blade)
SMALL_M, LARGE_M = 0.09, 0.17  # largest dimension: below is small, above is large


# Objects as dictionaries with ids 1..N, the segmentation with these ids, depth in metres.
Truth = tuple[list[dict[str, Any]], NDArray[np.uint8], NDArray[np.float32]]


def tight_box(mask: NDArray[np.bool_]) -> list[int]:
    """x1 y1 x2 y2 of the true pixels, right and bottom exclusive; the mask must not be empty."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def inner_point(mask: NDArray[np.bool_]) -> list[int]:
    """The pixel x, y of the mask that is farthest from its border."""
    padded = np.pad(mask, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return [int(x) - 1, int(y) - 1]


def size_word(size_m: float) -> str:
    """small, medium or large by the largest dimension in metres."""
    return "small" if size_m < SMALL_M else "large" if size_m > LARGE_M else "medium"


def annotate(scene: Scene, view: View, things: list[Thing]) -> Truth | None:
    """The truth of a view; None where an object shows too little of its own colour to be named."""
    drawn = scene.segment(view)
    owner = drawn.owner
    camera = view.camera
    objects: list[dict[str, Any]] = []
    new_id: dict[int, int] = {}
    segmentation = np.zeros_like(owner)
    for number, pose in enumerate(view.poses):
        mask = owner == number + 1
        pixels = int(mask.sum())
        if pose is None or pixels < MIN_PIXELS:
            continue
        alone = scene.segment(view, number).owner > 0
        thing = things[number]
        world = thing.points @ pose.rotation.T + pose.position
        xy = camera.project(world)
        inside = ((xy >= 0) & (xy < [camera.width, camera.height])).all(1).mean()
        visible = pixels / max(int(alone.sum()), pixels) * float(inside)
        if visible < MIN_VISIBLE:
            continue
        if drawn.colored[mask].mean() < MIN_COLORED:
            return None
        new_id[number] = len(objects) + 1
        segmentation[mask] = new_id[number]
        size = float((thing.points.max(0) - thing.points.min(0)).max())
        base = np.array([*((world.max(0) + world.min(0)) / 2)[:2], world[:, 2].min()])
        center = (world.max(0) + world.min(0)) / 2
        objects.append(
            {
                "id": new_id[number],
                "kind": thing.kind,
                "color": thing.color,
                "material": thing.look.material,
                "size": size_word(size),
                "size_m": round(size, 4),
                "box_xyxy": tight_box(mask),
                "full_box_xyxy": tight_box(alone),
                "visible": round(visible, 3),
                "point_xy": inner_point(mask),
                "position_m": [round(float(x), 4) for x in base],
                "upright": pose.upright,
                "contained_in": pose.inside,
                "mesh": thing.mesh,
                "camera_xyz_m": [round(float(x), 4) for x in camera.to_camera(center[None])[0]],
            }
        )
    for item in objects:
        item["contained_in"] = new_id.get(item["contained_in"])
    return objects, segmentation, drawn.depth_m
