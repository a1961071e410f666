"""Places in space, against scenes that numpy projects."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm_runtime.answer import Answer, GroundedObject, Step
from edge_mm_runtime.errors import ImageError, UsageError
from edge_mm_runtime.space import Intrinsics, check_depth, hand_eye, in_space, to_robot, xyz_of

CAMERA = Intrinsics(fx=300.0, fy=310.0, cx=155.0, cy=118.0, width=320, height=240)


def rays(camera: Intrinsics = CAMERA) -> tuple[np.ndarray, np.ndarray]:
    """x / z and y / z of each pixel's centre, [H, W]; pixel 0, 0 has its centre at 0, 0."""
    v, u = np.mgrid[: camera.height, : camera.width]
    return (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy


def scene(
    *boxes: tuple[float, float, float, float, float], camera: Intrinsics = CAMERA
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Depth in metres and masks of upright faces (x, y, z, width, height) before a slanted wall."""
    x, y = rays(camera)
    depth = 2.0 / (1.0 - 0.2 * y)  # the plane z = 2 + 0.2 y
    masks = []
    for bx, by, bz, width, height in boxes:
        mask = (np.abs(x * bz - bx) < width / 2) & (np.abs(y * bz - by) < height / 2)
        depth = np.where(mask & (bz < depth), bz, depth)
        masks.append(mask)
    return depth, masks


def box_of(mask: np.ndarray) -> GroundedObject:
    """The box round a mask, in frame pixels: x runs from 0 at the edge of the first one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return GroundedObject("cup", tuple(map(float, box)), None, 0.9)


@pytest.mark.parametrize("kind", ["millimetres", "float32", "float64"])
def test_boxes_in_the_room(kind: str) -> None:
    faces = [(0.1, -0.05, 0.8, 0.2, 0.1), (-0.3, 0.2, 1.2, 0.1, 0.3), (0.5, 0.3, 1.5, 0.08, 0.08)]
    depth, masks = scene(*faces)
    given = (
        np.round(depth * 1000).astype(np.uint16) if kind == "millimetres" else depth.astype(kind)
    )
    for (x, y, z, *_), mask in zip(faces, masks, strict=True):
        found = xyz_of(box_of(mask), given, CAMERA)
        # Half a pixel of where the mask's edges fall, and half a millimetre.
        np.testing.assert_allclose(found, (x, y, z), atol=0.5 * z / 300 + 5e-4)


def test_the_half_pixel_between_the_two_conventions() -> None:
    depth = np.full((240, 320), 3.0)
    # The pixel whose centre is the optical axis covers 155..156 in frame coordinates.
    item = GroundedObject("dot", None, (155.5, 118.5), 1.0)
    np.testing.assert_allclose(xyz_of(item, depth, CAMERA), (0.0, 0.0, 3.0), atol=1e-12)


def test_a_point_says_the_direction_and_the_box_the_distance() -> None:
    depth, (mask,) = scene((0.0, 0.0, 1.0, 0.4, 0.2))
    box = box_of(mask).box_xyxy
    found = xyz_of(GroundedObject("cup", box, (200.5, 100.5), 1.0), depth, CAMERA)
    np.testing.assert_allclose(found, (45 / 300, -18 / 310, 1.0), atol=1e-9)


def test_a_point_alone_looks_around_itself() -> None:
    depth, (mask,) = scene((0.2, 0.1, 0.9, 0.1, 0.1))
    rows, columns = np.nonzero(mask)
    point = (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
    found = xyz_of(GroundedObject("cup", None, point, 1.0), depth, CAMERA)
    np.testing.assert_allclose(found, (0.2, 0.1, 0.9), atol=2e-3)


def test_a_thin_object_is_not_the_table_behind_it() -> None:
    depth = np.full((240, 320), 1.0)
    rows, columns = np.mgrid[:240, :320]
    pen = (np.abs(columns - rows - 20) <= 4) & (rows >= 60) & (rows < 160)
    depth[pen] = 0.94
    depth[np.abs(columns - rows - 20) == 5] = 0.97  # stereo makes up edges in between
    item = box_of(pen)
    assert pen[60:160, 76:185].mean() < 0.1  # most of its box is table
    found = xyz_of(item, depth, CAMERA)
    assert found is not None
    assert found[2] == pytest.approx(0.94)


def test_noise_and_holes_do_not_move_it() -> None:
    rng = np.random.default_rng(3)
    depth, (mask,) = scene((0.1, 0.0, 1.0, 0.3, 0.3))
    depth = depth * (1 + rng.normal(0, 0.004, depth.shape))
    noise = rng.random(depth.shape)
    depth[noise < 0.5] = rng.choice([0.0, np.nan, np.inf, -np.inf, -1.0], (noise < 0.5).sum())
    depth[noise > 0.99] = 0.2  # single pixels far too near
    found = xyz_of(box_of(mask), depth.astype(np.float32), CAMERA)
    np.testing.assert_allclose(found, (0.1, 0.0, 1.0), atol=4e-3)


@pytest.mark.parametrize("measured", [0, 4])
def test_nothing_measured_is_none(measured: int) -> None:
    depth = np.zeros((240, 320), np.uint16)
    depth[120, 160 : 160 + measured] = 900
    item = GroundedObject("glass", (140.0, 100.0, 180.0, 140.0), None, 0.8)
    assert xyz_of(item, depth, CAMERA) is None
    depth[121, 160:165] = 900
    assert xyz_of(item, depth, CAMERA) is not None


def test_a_tiny_box_in_the_corner() -> None:
    depth = np.full((240, 320), 1.5)
    found = xyz_of(GroundedObject("nut", (318.0, 238.0, 320.0, 240.0), None, 0.8), depth, CAMERA)
    expected = ((318.5 - 155) / 300 * 1.5, (238.5 - 118) / 310 * 1.5, 1.5)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_depth_of_half_the_size_covers_the_same_view() -> None:
    face = (0.15, -0.1, 0.8, 0.2, 0.2)
    _, (mask,) = scene(face)
    half = Intrinsics(150.0, 155.0, 77.25, 58.75, 160, 120)  # (c + 0.5) / 2 - 0.5
    depth, _ = scene(face, camera=half)
    found = xyz_of(box_of(mask), depth, CAMERA)
    np.testing.assert_allclose(found, (0.15, -0.1, 0.8), atol=2e-3)


def test_depth_of_another_shape_is_refused_with_both_sizes() -> None:
    with pytest.raises(ImageError, match=r"320 x 180 pixels, its frame 320 x 240.*align"):
        xyz_of(GroundedObject("cup", (1.0, 1.0, 9.0, 9.0), None, 1.0), np.ones((180, 320)), CAMERA)


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        (np.ones((240, 320, 3), np.uint16), "one channel, this is .240, 320, 3."),
        (np.ones((240, 320), np.int32), "uint16 millimetres or float metres, this is int32"),
        (np.ones((0, 320), np.uint16), "one channel"),
        ([[1.0]], "this is list"),
    ],
)
def test_what_is_no_depth(depth: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_depth(depth, 320, 240)


def rotation(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def test_a_camera_that_looks_down_on_the_table() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, -1, 0], [-1, 0, 0], [0, 0, -1]]  # its up is the robot's forward
    matrix[:3, 3] = (0.4, 0.0, 1.0)
    np.testing.assert_allclose(to_robot((0.1, -0.2, 0.9), matrix), (0.6, -0.1, 0.1), atol=1e-12)


def test_a_turned_camera() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((1, 2, 3), 0.7)
    matrix[:3, 3] = (0.1, 0.2, 0.3)
    inverse = np.linalg.inv(matrix)
    there = to_robot((0.5, -0.1, 1.2), matrix)
    np.testing.assert_allclose(to_robot(there, inverse), (0.5, -0.1, 1.2), atol=1e-9)


def bad_matrices() -> list[tuple[object, str]]:
    """What is not a rigid transform, and what is said about it."""
    transposed, stretched, mirrored, missing = (np.eye(4) for _ in range(4))
    transposed[3, :3] = (0.1, 0.2, 0.3)
    stretched[0, 0] = 1.01
    mirrored[0, 0] = -1.0
    missing[0, 3] = np.nan
    return [
        (np.eye(3), "4 x 4, this one is .3, 3."),
        (transposed, "0 0 0 1: is it transposed"),
        (stretched, "0.02 from orthonormal"),
        (mirrored, "mirrors"),
        (missing, "not numbers"),
        ([[1, 2], [3]], "4 rows of 4 numbers"),
    ]


@pytest.mark.parametrize(("matrix", "message"), bad_matrices())
def test_what_is_no_hand_eye_matrix(matrix: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        hand_eye(matrix)


def test_a_matrix_of_four_decimals_passes() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation((3, -1, 2), 1.1).round(4)
    hand_eye(matrix)


def test_an_answer_in_space() -> None:
    depth, (near, far) = scene((0.1, -0.05, 0.8, 0.2, 0.1), (-0.3, 0.2, 1.2, 0.1, 0.3))
    depth[near] = np.nan
    objects = (box_of(near), box_of(far))
    answer = Answer("two", objects, True, (Step("pick", None, objects[1]),), "stop", {}, frame_id=7)
    matrix = np.eye(4)
    matrix[:3, 3] = (0.0, 0.0, 1.0)
    placed = in_space(answer, depth, CAMERA, matrix)
    assert placed.objects[0].xyz_m is None
    np.testing.assert_allclose(placed.objects[1].xyz_m, (-0.3, 0.2, 2.2), atol=3e-3)
    assert placed.steps[0].object.xyz_m == placed.objects[1].xyz_m
    assert (placed.text, placed.frame_id, placed.objects[1].box_xyxy) == (
        "two",
        7,
        objects[1].box_xyxy,
    )
    in_camera = in_space(answer, depth, CAMERA).objects[1].xyz_m
    np.testing.assert_allclose(in_camera, (-0.3, 0.2, 1.2), atol=3e-3)


def test_intrinsics_that_are_not_those_of_the_frames() -> None:
    depth = np.full((240, 320), 1.5)
    cup = GroundedObject("cup", (400.0, 100.0, 450.0, 200.0), None, 0.8)  # of 640 x 480
    with pytest.raises(UsageError, match="'cup' reaches to 450, 200, outside the 320 x 240 pixels"):
        xyz_of(cup, depth, CAMERA)
    dot = GroundedObject("dot", None, (10.0, 300.0), 0.8)
    with pytest.raises(UsageError, match="'dot' reaches to 10, 300, outside"):
        xyz_of(dot, depth, CAMERA)
    answer = Answer("dot", (dot,), True, (), "stop", {})
    with pytest.raises(UsageError, match=r"intrinsics is NoneType: give Intrinsics\("):
        in_space(answer, depth, None)  # type: ignore[arg-type]


GOOD = {"fx": 300, "fy": 310.5, "cx": 155, "cy": 118.0, "width": 320, "height": 240}


def test_intrinsics_from_a_dict() -> None:
    assert Intrinsics.from_dict(GOOD) == Intrinsics(300.0, 310.5, 155.0, 118.0, 320, 240)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fx": -300}, "fx and fy are positive"),
        ({"fy": float("nan")}, "all four are numbers"),
        ({"cx": 640}, "centre 640, 118 lies outside the frame of 320 x 240"),
        ({"width": 0}, "0 x 240 pixels"),
        ({"fx": "300"}, r"Expected `float`, got `str` - at `\$.fx`"),
        ({"f_x": 1}, "unknown field `f_x`"),
    ],
)
def test_intrinsics_that_no_camera_has(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Intrinsics.from_dict({**GOOD, **change})
    with pytest.raises(UsageError, match="missing required field `cx`"):
        Intrinsics.from_dict({"fx": 1, "fy": 1})
