"""Annotated scenes on disk, and the same scene as questions see it.

A data folder is `scenes.json` beside `images/` and `segmentation/` (uint8, 0 background, otherwise
an object's id). `Seen` is an object in one view, in unit coordinates of that view: what is left of
an annotation after cropping and flipping, and all that questions and evaluation look at.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from edge_mm_runtime.errors import ImageError, UsageError
from edge_mm_runtime.image import read_image

SCHEMA = 1


class SceneObject(msgspec.Struct, frozen=True):
    """One labelled object; pixels of the image, metres of the world."""

    id: int
    kind: str
    color: str | None
    box_xyxy: tuple[float, float, float, float]
    visible: float = 1.0
    point_xy: tuple[float, float] | None = None
    position_m: tuple[float, float, float] | None = None  # where it stands, world axes
    camera_xyz_m: tuple[float, float, float] | None = None  # its centre, camera axes
    size: str | None = None
    size_m: float | None = None
    material: str | None = None
    upright: bool = True
    contained_in: int | None = None
    mesh: str | None = None


class Scene(msgspec.Struct, frozen=True):
    """One picture and what is on it."""

    id: str
    image: str
    width: int
    height: int
    objects: tuple[SceneObject, ...]
    segmentation: str | None = None
    depth: str | None = None
    camera: dict[str, Any] = {}
    surface: str | None = None


class SceneFile(msgspec.Struct, frozen=True):
    """`scenes.json`."""

    schema: int
    scenes: tuple[Scene, ...]
    generator: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Seen:
    """An object in a view; `box`, `point` and `base` (where it stands) are unit coordinates."""

    id: int
    kind: str
    color: str | None
    box: tuple[float, float, float, float]
    point: tuple[float, float]
    base: tuple[float, float]
    visible: float
    size_m: float
    contained_in: int | None

    @property
    def label(self) -> str:
        return f"{self.color} {self.kind}" if self.color else self.kind

    @property
    def centre(self) -> tuple[float, float]:
        x1, y1, x2, y2 = self.box
        return (x1 + x2) / 2, (y1 + y2) / 2


def read_scenes(folder: Path, name: str = "scenes.json") -> tuple[Scene, ...]:
    """All scenes of a data folder. UsageError when it is not one."""
    path = Path(folder) / name
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a data folder: {path.name} is missing; make one with "
            f"`edge-mm data make tabletop --count 100 --out {folder}`"
        )
    try:
        found = msgspec.json.decode(path.read_bytes(), type=SceneFile)
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if found.schema != SCHEMA:
        raise UsageError(f"{path} has schema {found.schema}, this version reads {SCHEMA}")
    return found.scenes


def read_frame(folder: Path, scene: Scene) -> np.ndarray:
    """The picture, uint8 [H,W,3] BGR."""
    return read_image(Path(folder) / scene.image)


def read_segmentation(folder: Path, scene: Scene) -> np.ndarray | None:
    """Object ids, uint8 [H,W]; None for data that has boxes only."""
    if scene.segmentation is None:
        return None
    path = Path(folder) / scene.segmentation
    segmentation = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if segmentation is None:
        raise ImageError(f"{path} cannot be read as a segmentation picture; make the data again")
    return segmentation


def boxes_as_segmentation(scene: Scene) -> np.ndarray:
    """For data with boxes only: every pixel goes to the smallest box around it."""
    segmentation = np.zeros((scene.height, scene.width), np.uint8)
    for item in sorted(scene.objects, key=lambda o: -_area(o.box_xyxy)):
        x1, y1, x2, y2 = (max(0, round(v)) for v in item.box_xyxy)
        segmentation[y1:y2, x1:x2] = item.id
    return segmentation


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def seen_objects(scene: Scene) -> list[Seen]:
    """The scene's objects in unit coordinates of its own picture."""
    return [see(item, scene) for item in scene.objects]


def see(item: SceneObject, scene: Scene) -> Seen:
    scale = np.array([scene.width, scene.height])
    x1, y1, x2, y2 = item.box_xyxy
    point = item.point_xy or ((x1 + x2) / 2, (y1 + y2) / 2)
    base: tuple[float, float] = ((x1 + x2) / 2, y2)
    if item.position_m is not None and "world_from_camera" in scene.camera:
        pose = np.array(scene.camera["world_from_camera"])
        x, y, z = (np.array(item.position_m) - pose[:3, 3]) @ pose[:3, :3]
        if z > 0:
            base = (
                scene.camera["fx"] * x / z + scene.camera["cx"],
                scene.camera["fy"] * y / z + scene.camera["cy"],
            )

    def unit(values: tuple[float, ...]) -> tuple[Any, ...]:
        return tuple((np.array(values).reshape(-1, 2) / scale).reshape(-1).tolist())

    return Seen(
        id=item.id,
        kind=item.kind,
        color=item.color,
        box=unit(item.box_xyxy),
        point=unit(point),
        base=unit(base),
        visible=item.visible,
        size_m=item.size_m or 0.0,
        contained_in=item.contained_in,
    )
