"""Boxes that are carried through pictures whose motion is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_mm_runtime.follow import Held, Small, find_again, follow, hold, shrink, visible_share

RNG = np.random.default_rng(3)
BACKGROUND = cv2.GaussianBlur(RNG.integers(60, 200, (200, 300, 3), np.uint8), (0, 0), 3)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 255, (60, 60, 3), np.uint8), (0, 0), 1.5)
PICTURE[..., 2] = 255  # reddish: nothing in the background is
START = np.array([40.0, 50.0, 80.0, 90.0])


def frame(box: np.ndarray, thing: np.ndarray = PICTURE, noise: float = 0.0) -> np.ndarray:
    """The background with the thing drawn into `box`, to fractions of a pixel."""
    x1, y1, x2, y2 = box
    matrix = np.array(
        [
            [(x2 - x1) / 60, 0, x1 + (x2 - x1) / 120 - 0.5],
            [0, (y2 - y1) / 60, y1 + (y2 - y1) / 120 - 0.5],
        ]
    )
    moved = cv2.warpAffine(thing, matrix, (300, 200))
    mask = cv2.warpAffine(np.ones((60, 60), np.float32), matrix, (300, 200))[..., None]
    drawn = BACKGROUND * (1 - mask) + moved * mask
    drawn = drawn + np.random.default_rng(int(x1)).normal(0, noise, drawn.shape) if noise else drawn
    return np.clip(drawn, 0, 255).astype(np.uint8)


def shifted(x: float, y: float = 0.0, box: np.ndarray = START) -> np.ndarray:
    return box + np.array([x, y, x, y])


def carry(boxes: list[np.ndarray], **drawn: object) -> tuple[Held, list[str]]:
    """Carry the first box through all of them."""
    before = shrink(frame(boxes[0], **drawn))
    held = hold(before, boxes[0])
    fates = []
    for box in boxes[1:]:
        after = shrink(frame(box, **drawn))
        fates += follow([held], before, after)
        before = after
        if fates[-1] != "followed":
            break
    return held, fates


def test_a_box_goes_where_its_thing_goes() -> None:
    path = [shifted(5 * k, 1.5 * k) for k in range(25)]
    held, fates = carry(path, noise=3.0)
    assert fates == ["followed"] * 24
    np.testing.assert_allclose(held.box, path[-1], atol=1.0)


def test_a_box_grows_with_its_thing() -> None:
    path = [START + np.array([-1, -1, 1, 1]) * k for k in range(20)]
    held, _ = carry(path)
    np.testing.assert_allclose(held.box, path[-1], atol=3.0)  # of 78 pixels


def test_what_stands_still_does_not_drift() -> None:
    held, _ = carry([START] * 20)
    np.testing.assert_allclose(held.box, START, atol=0.1)


@pytest.mark.parametrize("step", [4, 20])
def test_fast_motion_is_expected_to_go_on(step: float) -> None:
    path = [shifted(total) for total in np.cumsum([0, step / 2, *[step] * 7])]
    held, fates = carry(path)
    assert set(fates) == {"followed"}
    np.testing.assert_allclose(held.box, path[-1], atol=1.0)


def test_a_plain_thing_is_carried_by_its_picture() -> None:
    plain = np.full((60, 60, 3), (30, 30, 220), np.uint8)
    plain[20:40, 20:40] = (60, 60, 250)
    path = [shifted(3 * k) for k in range(20)]
    held, fates = carry(path, thing=plain)
    assert set(fates) == {"followed"}
    np.testing.assert_allclose(held.box, path[-1], atol=2.0)


def test_leaving_the_frame_is_noticed_before_nothing_is_left() -> None:
    path = [shifted(180 + 3 * k) for k in range(26)]
    _, fates = carry(path)
    assert fates[-1] == "left" and set(fates[:-1]) == {"followed"}
    true_share = visible_share(path[len(fates)], shrink(BACKGROUND).grey)
    assert 0 <= true_share < 0.5


def test_a_covered_thing_is_not_followed_and_is_found_again() -> None:
    before, covered = shrink(frame(START)), shrink(BACKGROUND)
    held = hold(before, START)
    assert follow([held], before, covered) == ["failed"]
    np.testing.assert_array_equal(held.box, START)  # where to look for it
    assert not find_again(held, covered)
    moved = shifted(5, -4)
    assert find_again(held, shrink(frame(moved)))
    np.testing.assert_allclose(held.box, moved, atol=1.0)


def test_the_same_shape_in_another_colour_is_not_it() -> None:
    before = shrink(frame(START))
    held = hold(before, START)
    green = PICTURE.copy()
    green[..., 1], green[..., 2] = 255, 0
    assert follow([held], before, shrink(frame(START, thing=green))) == ["failed"]


def test_several_boxes_go_their_own_ways() -> None:
    other = shifted(120, 40)

    def both(k: int) -> Small:
        drawn = frame(shifted(2 * k))
        x, y = 160 - 3 * k, 90
        drawn[y : y + 40, x : x + 40] = cv2.resize(PICTURE[::-1], (40, 40))
        return shrink(drawn)

    before = both(0)
    helds = [hold(before, START), hold(before, other)]
    for k in range(1, 8):
        after = both(k)
        assert follow(helds, before, after) == ["followed"] * 2
        before = after
    np.testing.assert_allclose(helds[0].box, shifted(14), atol=1.0)
    np.testing.assert_allclose(helds[1].box, shifted(-21, box=other), atol=1.0)


@pytest.mark.parametrize(
    ("shape", "small"),
    [
        ((480, 640, 3), (240, 320)),
        ((480, 640), (240, 320)),
        ((1080, 1920, 4), (180, 320)),
        ((200, 100, 1), (200, 100)),
        ((1, 1, 3), (1, 1)),
        ((1, 4000, 3), (1, 320)),
    ],
)
def test_any_frame_is_made_small(shape: tuple[int, ...], small: tuple[int, int]) -> None:
    made = shrink(np.zeros(shape, np.uint8))
    assert made.grey.shape == small and made.bgr is not None and made.bgr.shape == (*small, 3)
    np.testing.assert_allclose(made.scale, np.array(small[::-1]) / shape[1::-1])


def test_a_small_copy_is_a_copy() -> None:
    given = frame(START)
    made = shrink(given)
    given[:] = 0
    assert made.bgr is not None and made.bgr.any()


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (10, 10, 12, 200), (-50, -50, 400, 300)])
def test_any_box_can_be_held(box: tuple[int, ...]) -> None:
    small = shrink(frame(START))
    held = hold(small, np.array(box, np.float64))
    assert follow([held], small, small)[0] in ("followed", "failed", "left")
    assert follow([], small, small) == []
