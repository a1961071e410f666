"""From a place in a frame to a place in space: aligned depth, pinhole camera, hand-eye matrix.

Camera frame: x right, y down, z forward, in metres from the lens (the optical frame of ROS and
OpenCV). Intrinsics are as calibrations give them (OpenCV, ROS camera_info, RealSense): the centre
of the first pixel is 0, 0. The boxes of an answer count from the edge of the first pixel (see
image.py), its centre is 0.5, 0.5; the half pixel is taken care of here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.errors import ImageError, UsageError

# Aligned to the frame: uint16 millimetres or float metres, [H, W]. Not measured: 0, NaN, infinite.
Depth = npt.NDArray[np.uint16] | npt.NDArray[np.float32] | npt.NDArray[np.float64]
XYZ = tuple[float, float, float]

MIN_PIXELS = 5  # fewer measured ones are more likely noise than the object
CENTRAL = 0.5  # of the box's width and height: what is near its edges is often the background
POINT_SHARE = 0.02  # of the frame's shorter side: what is looked at around a point
NEAR_SHARE = 0.1  # of the measured pixels, at least, are the object's
SAME_SURFACE = 0.02  # of the distance: neighbours in depth closer than this, or
SAME_SURFACE_M = 0.01  # than this, belong to one surface; a stereo camera's noise is within it
RIGID = 1e-3  # how far a rotation may be from orthonormal


class Intrinsics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pinhole camera without distortion, in pixels of a frame of width x height.

    Raises UsageError for numbers that no camera has.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not all(math.isfinite(value) for value in values) or min(self.fx, self.fy) <= 0:
            raise UsageError(f"intrinsics {values}: fx and fy are positive, all four are numbers")
        if self.width < 1 or self.height < 1:
            raise UsageError(f"intrinsics of a frame of {self.width} x {self.height} pixels")
        if not (-0.5 <= self.cx <= self.width - 0.5 and -0.5 <= self.cy <= self.height - 0.5):
            raise UsageError(
                f"intrinsics: the centre {self.cx:g}, {self.cy:g} lies outside the frame of "
                f"{self.width} x {self.height} pixels: are they in pixels of this frame size?"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Intrinsics:
        """Read {"fx", "fy", "cx", "cy", "width", "height"}; UsageError names what is wrong."""
        try:
            return msgspec.convert(dict(values), cls)
        except msgspec.ValidationError as error:
            raise UsageError(f"intrinsics: {error}") from None


def check_depth(depth: object, width: int, height: int) -> None:
    """Raise ImageError unless `depth` is one as above, aligned to a frame of width x height.

    Aligned means the same size or the same shape at another scale: many cameras give depth at
    half the size. Another shape cannot lie over the frame.
    """
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.size == 0:
        shape = getattr(depth, "shape", type(depth).__name__)
        raise ImageError(f"depth is an array H x W of one channel, this is {shape}")
    if depth.dtype != np.uint16 and not np.issubdtype(depth.dtype, np.floating):
        raise ImageError(f"depth is uint16 millimetres or float metres, this is {depth.dtype}")
    depth_height, depth_width = depth.shape
    if abs(depth_width * height / width - depth_height) > 0.5:
        raise ImageError(
            f"the depth is {depth_width} x {depth_height} pixels, its frame {width} x {height}: "
            "they have to cover the same view: align the depth to the frame"
        )


def xyz_of(item: GroundedObject, depth: Depth, intrinsics: Intrinsics) -> XYZ | None:
    """Place of an object in the camera frame, metres: what is nearest in the middle of its box.

    Direction: the point of the object, or the centre of its box. Distance: the median of the
    nearest surface within the central part of the box, or around the point when there is no box.
    Nearest, because a box round a thin object holds more table than object, and what lies behind
    cannot hide it; a surface of less than a tenth of the pixels is noise or an edge and is passed
    over. None where fewer than a few pixels were measured. ImageError for a depth that does not
    fit `intrinsics`.
    """
    _check_intrinsics(intrinsics, item)
    check_depth(depth, intrinsics.width, intrinsics.height)
    distance = near_surface(_metres(_window(item, depth, intrinsics)))
    if distance is None:
        return None
    x, y = _middle(item)
    return (
        (x - 0.5 - intrinsics.cx) * distance / intrinsics.fx,
        (y - 0.5 - intrinsics.cy) * distance / intrinsics.fy,
        distance,
    )


def near_surface(depth_m: npt.NDArray[np.float64]) -> float | None:
    """Median distance of the nearest surface among measured distances [n] in metres.

    Sorted by distance, a surface is a run without gaps: around each of its pixels a fiftieth of
    all lie within SAME_SURFACE. Pixels between two surfaces, which stereo makes up at edges, are
    too thin for that.
    """
    if depth_m.size < MIN_PIXELS:
        return None
    ordered = np.sort(depth_m)
    step = max(1, ordered.size // 50)
    reach = np.maximum(SAME_SURFACE_M, SAME_SURFACE * ordered[:-step])
    dense = ordered[step:] - ordered[:-step] <= reach
    edges = np.flatnonzero(np.diff(np.concatenate(([False], dense, [False])).astype(np.int8)))
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        surface = ordered[first : last + step]
        if surface.size >= max(MIN_PIXELS, NEAR_SHARE * ordered.size):
            return float(np.median(surface))
    return None


def to_robot(xyz: XYZ, camera_to_robot: npt.ArrayLike) -> XYZ:
    """Camera frame -> robot frame, metres; the 4x4 matrix is checked (see `hand_eye`)."""
    x, y, z, _ = hand_eye(camera_to_robot) @ (*xyz, 1.0)
    return (float(x), float(y), float(z))


def hand_eye(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Check a rigid 4x4 transform: rotation in the upper left, metres in the last column.

    UsageError says what is wrong with it.
    """
    try:
        values = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise UsageError("the hand-eye matrix is not 4 rows of 4 numbers") from None
    if values.shape != (4, 4):
        raise UsageError(f"the hand-eye matrix is 4 x 4, this one is {values.shape}")
    if not np.isfinite(values).all():
        raise UsageError("the hand-eye matrix has values that are not numbers")
    if not np.allclose(values[3], (0.0, 0.0, 0.0, 1.0), atol=RIGID):
        raise UsageError(
            f"the hand-eye matrix has the last row {values[3].tolist()} instead of 0 0 0 1: "
            "is it transposed?"
        )
    rotation = values[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > RIGID:
        raise UsageError(
            f"the hand-eye matrix does not rotate, it also stretches: its rotation is {error:.2g} "
            f"from orthonormal, {RIGID:g} is allowed"
        )
    if np.linalg.det(rotation) < 0:
        raise UsageError("the hand-eye matrix mirrors: the determinant of its rotation is -1")
    return values


def in_space(
    answer: Answer,
    depth: Depth,
    intrinsics: Intrinsics,
    camera_to_robot: npt.ArrayLike | None = None,
) -> Answer:
    """Fill `xyz_m` of all objects and steps; robot frame where `camera_to_robot` is given.

    None stays where the depth camera saw nothing. Errors: see `xyz_of` and `hand_eye`.
    """
    matrix = None if camera_to_robot is None else hand_eye(camera_to_robot)

    def placed(item: GroundedObject) -> GroundedObject:
        xyz = xyz_of(item, depth, intrinsics)
        if xyz is not None and matrix is not None:
            xyz = to_robot(xyz, matrix)
        return msgspec.structs.replace(item, xyz_m=xyz)

    return msgspec.structs.replace(
        answer,
        objects=tuple(placed(item) for item in answer.objects),
        steps=tuple(
            msgspec.structs.replace(step, object=placed(step.object)) for step in answer.steps
        ),
    )


def _check_intrinsics(intrinsics: object, item: GroundedObject) -> None:
    """Raise UsageError where there are none, or they are of a smaller frame than the object's."""
    if not isinstance(intrinsics, Intrinsics):
        raise UsageError(
            f"intrinsics is {type(intrinsics).__name__}: give Intrinsics(fx, fy, cx, cy, width, "
            "height) of the camera, in pixels of its frames"
        )
    far_x, far_y = item.box_xyxy[2:] if item.box_xyxy is not None else _middle(item)
    if far_x > intrinsics.width + 0.5 or far_y > intrinsics.height + 0.5:
        raise UsageError(
            f"{item.label!r} reaches to {far_x:.0f}, {far_y:.0f}, outside the "
            f"{intrinsics.width} x {intrinsics.height} pixels of the intrinsics: scale them to "
            "the frames that were asked about"
        )


def _middle(item: GroundedObject) -> tuple[float, float]:
    """The object's point, or the centre of its box."""
    if item.point_xy is not None:
        return item.point_xy
    x1, y1, x2, y2 = item.box_xyxy or (0.0, 0.0, 0.0, 0.0)  # it has one of the two
    return ((x1 + x2) / 2, (y1 + y2) / 2)


def _window(item: GroundedObject, depth: Depth, intrinsics: Intrinsics) -> Depth:
    """The pixels of the depth that tell the object's distance; empty outside the frame."""
    height, width = depth.shape
    scale_x, scale_y = width / intrinsics.width, height / intrinsics.height
    if item.box_xyxy is None:
        x, y = _middle(item)
        wide = high = POINT_SHARE * min(width, height)
    else:
        x1, y1, x2, y2 = item.box_xyxy
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        wide, high = CENTRAL * (x2 - x1) * scale_x, CENTRAL * (y2 - y1) * scale_y
    # A few pixels wide at least, or a small object would never have enough of them.
    columns = _span(x * scale_x, max(wide, MIN_PIXELS), width)
    rows = _span(y * scale_y, max(high, MIN_PIXELS), height)
    return depth[rows, columns]


def _span(centre: float, length: float, size: int) -> slice:
    first, last = round(centre - length / 2), round(centre + length / 2)
    return slice(min(max(first, 0), size), min(max(last, 0), size))


def _metres(depth: Depth) -> npt.NDArray[np.float64]:
    """The measured distances [n] of a window, metres."""
    values = depth.astype(np.float64).ravel()
    if depth.dtype == np.uint16:
        values /= 1000.0
    measured: npt.NDArray[np.float64] = values[np.isfinite(values) & (values > 0)]
    return measured
