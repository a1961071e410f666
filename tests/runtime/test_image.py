"""The coordinate contract, against OpenCV's own geometry and numpy."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mm_runtime.errors import ImageError
from edge_mm_runtime.image import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageTransform,
    read_image,
    write_image,
)

TRANSFORMS = {
    "squash": ImageTransform("squash", 240, 240),
    "odd squash": ImageTransform("squash", 97, 33, interpolation="linear"),
    "letterbox": ImageTransform("letterbox", 240, 192, fill=114),
    "smart_resize": ImageTransform("smart_resize", 448, 448, multiple_of=28, min_pixels=3136),
}
sides = st.integers(1, 4096)
fractions = st.floats(0, 1)


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, x=fractions, y=fractions)
def test_to_frame_inverts_to_model(name: str, width: int, height: int, x: float, y: float) -> None:
    if name == "smart_resize" and max(width, height) > 200 * min(width, height):
        return  # refused, see below
    place = TRANSFORMS[name].placement(width, height)
    points = np.array([[x * width, y * height], [0, 0], [width, height]])
    np.testing.assert_allclose(place.to_frame(place.to_model(points)), points, atol=1e-9 * 4096)
    np.testing.assert_allclose(place.from_unit(place.to_unit(points)), points, atol=1e-9 * 4096)
    box = np.array([x * width / 2, y * height / 2, width, height])
    np.testing.assert_allclose(place.to_frame(place.to_model(box)), box, atol=1e-9 * 4096)


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=40, deadline=None)
@given(width=sides, height=sides, x=fractions, y=fractions)
def test_a_bin_of_the_model_is_half_a_bin_off_at_most(
    name: str, width: int, height: int, x: float, y: float
) -> None:
    if name == "smart_resize" and max(width, height) > 200 * min(width, height):
        return
    place = TRANSFORMS[name].placement(width, height)
    point = np.array([x * width, y * height])
    unit = place.to_unit(point)
    binned = (np.minimum(np.floor(unit * 128), 127) + 0.5) / 128
    model = np.array([place.model_width, place.model_height])
    bin_px = model / 128 * [width / place.content_width, height / place.content_height]
    assert np.all(np.abs(place.from_unit(binned) - point) <= bin_px / 2 + 1e-6)


def test_model_answers_outside_the_frame_are_clipped() -> None:
    place = ImageTransform("letterbox", 100, 100).placement(200, 100)
    np.testing.assert_allclose(place.to_frame([0, 0, 100, 100]), [0, 0, 200, 100])


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 300), height=st.integers(1, 300), channels=st.sampled_from([0, 1, 3, 4])
)
def test_apply_is_resize_then_normalise(width: int, height: int, channels: int) -> None:
    shape = (height, width, channels) if channels else (height, width)
    frame = np.random.default_rng(width).integers(0, 256, shape, dtype=np.uint8)
    got = ImageTransform("squash", 48, 32, interpolation="linear").apply(frame)
    bgr = {0: cv2.COLOR_GRAY2BGR, 1: cv2.COLOR_GRAY2BGR, 3: None, 4: cv2.COLOR_BGRA2BGR}[channels]
    plain = frame if bgr is None else cv2.cvtColor(frame, bgr)
    rgb = cv2.resize(plain, (48, 32), interpolation=cv2.INTER_LINEAR)[..., ::-1]
    expected = (rgb / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    assert got.shape == (1, 3, 32, 48)
    assert got.dtype == np.float32
    # one grey level of rounding between OpenCV's one-channel and three-channel kernels
    np.testing.assert_allclose(got[0], expected.transpose(2, 0, 1), atol=1.01 / 255 / 0.224)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (3840, 2160), (2160, 3840)])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_odd_sizes_are_taken(name: str, size: tuple[int, int]) -> None:
    width, height = size
    frame = np.full((height, width, 3), 200, np.uint8)
    transform = TRANSFORMS[name]
    place = transform.placement(width, height)
    pixel_values = transform.apply(frame)
    assert pixel_values.shape == (1, 3, place.model_height, place.model_width)


def test_what_is_drawn_in_the_frame_is_where_to_model_says() -> None:
    for transform in TRANSFORMS.values():
        frame = np.zeros((300, 500, 3), np.uint8)
        frame[60:180, 100:300] = 255  # box 100 60 300 180
        place = transform.placement(500, 300)
        white = transform.apply(frame)[0, 0] > (0.6 - IMAGENET_MEAN[0]) / IMAGENET_STD[0]
        rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(place.to_model([100, 60, 300, 180]), seen, atol=0.6)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_memory_of_any_order_is_taken(name: str) -> None:
    frame = np.random.default_rng(1).integers(0, 255, (37, 53, 4), dtype=np.uint8)
    expected = TRANSFORMS[name].apply(frame)
    locked = frame.copy()
    locked.flags.writeable = False
    apart = np.zeros((74, 106, 4), np.uint8)[::2, ::2]
    apart[:] = frame
    for same in (np.asfortranarray(frame), frame[::-1].copy()[::-1], locked, apart):
        np.testing.assert_array_equal(TRANSFORMS[name].apply(same), expected)
    grey = np.asfortranarray(frame[..., 0])[:, ::-1]
    np.testing.assert_array_equal(
        TRANSFORMS[name].apply(grey), TRANSFORMS[name].apply(np.ascontiguousarray(grey))
    )


def test_letterbox_fills_the_rest() -> None:
    pixel_values = ImageTransform("letterbox", 8, 8, fill=51, mean=(0, 0, 0), std=(1, 1, 1)).apply(
        np.full((4, 8, 3), 255, np.uint8)
    )
    np.testing.assert_allclose(pixel_values[0, 1, :, 0], [0.2] * 2 + [1.0] * 4 + [0.2] * 2)


def test_apply_leaves_the_frame_alone_and_repeats() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    before = frame.copy()
    first = TRANSFORMS["squash"].apply(frame)
    np.testing.assert_array_equal(first, TRANSFORMS["squash"].apply(frame[:, ::-1][:, ::-1]))
    np.testing.assert_array_equal(frame, before)


def test_smart_resize_agrees_with_qwen() -> None:
    # what transformers 5.23's qwen2_vl smart_resize gives for factor 28, 3136 .. 448 * 448 pixels
    expected = {
        (640, 480): (504, 364),
        (100, 30): (112, 28),
        (56, 56): (56, 56),
        (3840, 2160): (588, 336),
        (10, 10): (56, 56),
        (1, 160): (28, 728),
    }
    for (width, height), (model_width, model_height) in expected.items():
        place = TRANSFORMS["smart_resize"].placement(width, height)
        assert (place.model_width, place.model_height) == (model_width, model_height)
    with pytest.raises(ImageError, match="too narrow"):
        TRANSFORMS["smart_resize"].placement(1, 500)


def test_what_is_not_a_frame_is_refused() -> None:
    apply = TRANSFORMS["squash"].apply
    cases = {
        "uint8": np.zeros((4, 4, 3), np.float32),
        "this one is": np.zeros((4, 4, 2), np.uint8),
        "empty": np.zeros((0, 4, 3), np.uint8),
    }
    for message, frame in cases.items():
        with pytest.raises(ImageError, match=message):
            apply(frame)  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="this is str: use read_image"):
        apply("cup.jpg")  # type: ignore[arg-type]


def test_a_transform_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="width 0"):
        ImageTransform("squash", 0, 10)


def test_pictures_are_written_and_read(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "wörld.png"
    write_image(path, frame)
    np.testing.assert_array_equal(read_image(path), frame)
    np.testing.assert_array_equal(cv2.imread(str(path)), frame)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.jpg", tmp_path / "empty.jpg"
    broken.write_bytes(b"\xff\xd8\xff nothing")
    empty.touch()
    for path in (broken, empty):
        with pytest.raises(ImageError, match=rf"{path.name} is not a picture that OpenCV"):
            read_image(path)
    with pytest.raises(ImageError, match="no such picture"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(ImageError, match="is a folder, not a picture"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="use a name that ends in"):
        write_image(tmp_path / "x.words", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ImageError, match="No such file or directory"):
        write_image(tmp_path / "no" / "x.png", np.zeros((2, 2, 3), np.uint8))
