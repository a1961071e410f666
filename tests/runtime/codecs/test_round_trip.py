"""10,000 places through every codec and back to the frame, against each codec's grid in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_mm_runtime.bundle import Grounding
from edge_mm_runtime.codecs import CODECS, Codec, open_codec
from edge_mm_runtime.grounding import Region
from edge_mm_runtime.image import ImageTransform, Placement

FRAMES, PLACES = 1000, 10
Array = np.ndarray
Grid = Callable[[Array, Array], Array]
"""(unit coordinates [N, 2 or 4], sides of the model input, likewise) -> as the codec says them"""

TRANSFORMS = (
    ImageTransform("squash", 448, 448),
    ImageTransform("letterbox", 336, 336),
    ImageTransform("smart_resize", 1024, 1024, multiple_of=28, min_pixels=56 * 56),
)
SIZES = [(1, 1), (1, 2160), (3840, 1), (3840, 2160), (2160, 3840), (641, 479)]


def lines(steps: float) -> Grid:
    return lambda unit, sides: np.floor(unit * steps + 0.5) / steps


def pixels(unit: Array, sides: Array) -> Array:
    return np.floor(unit * sides + 0.5) / sides


def middles(bins: int) -> Grid:
    return lambda unit, sides: (np.floor(unit * bins).clip(0, bins - 1) + 0.5) / bins


def our_bins(unit: Array, sides: Array) -> Array:
    """The two ends of an axis in the same bin are its edges."""
    bins = np.floor(unit * 128).clip(0, 127)
    said = bins + 0.5
    same = bins[:, :2] == bins[:, 2:]
    said[:, :2] -= 0.5 * same
    said[:, 2:] += 0.5 * same
    return said / 128


def patches(unit: Array, sides: Array) -> Array:
    """Kosmos-2: floor and ceiling to patches; all of them where they are one row or column."""
    near = np.floor(unit[:, :2] * 32).clip(0, 31)
    far = np.maximum(near, np.ceil(unit[:, 2:] * 32 - 1))
    whole = (near == far).any(axis=1, keepdims=True)
    return np.hstack([near + 0.5 * ~whole, far + 0.5 + 0.5 * whole]) / 32


GRIDS: dict[str, tuple[Grid, float | None]] = {
    "edge_mm": (our_bins, 128),
    "qwen2_5_vl": (pixels, None),
    "qwen3_vl": (lines(1000), 1000),
    "qwen2_vl": (lines(1000), 1000),
    "paligemma": (lines(1023), 1023),
    "internvl": (lines(1000), 1000),
    "kosmos2": (patches, 32),
    "florence2": (middles(1000), 1000),
    "molmo": (lines(1000), 1000),
}
"""The grid, and its bins a side; None: pixels."""


def placements() -> list[Placement]:
    """Of FRAMES frames, 1x1 to 4K."""
    rng = np.random.default_rng(20261122)
    random = np.exp(rng.uniform(0, np.log((3840, 2160)), (FRAMES, 2))).astype(int)
    sizes = [*SIZES, *map(tuple, random[: FRAMES - len(SIZES)])]
    out = []
    for index, (width, height) in enumerate(sizes):
        narrow = max(width, height) > 200 * min(width, height)  # smart_resize refuses these
        transform = TRANSFORMS[index % (2 if narrow else 3)]
        out.append(transform.placement(int(width), int(height)))
    return out


EVERY = placements()


def places_of(placement: Placement, rng: np.random.Generator, size: int) -> Array:
    """Unit coordinates [PLACES, size] of places anywhere in a frame, and of its very edges."""
    sides = np.array([placement.frame_width, placement.frame_height])
    corners = rng.uniform(0, 1, (PLACES, size // 2, 2))
    corners[0] = 1.0
    corners[1, 0] = 0.0
    corners[2] = corners[2, 0]  # a box without an inside
    corners = np.sort(corners, axis=1) * sides
    return placement.to_unit(corners.reshape(PLACES, size)).clip(0, 1)


def regions(unit: Array) -> list[Region]:
    rows = [tuple(row) for row in unit.tolist()]
    if unit.shape[1] == 2:
        return [Region("red cup", point=row) for row in rows]
    return [Region("red cup", row) for row in rows]


def spoken(codec: Codec, objects: list[Region], placement: Placement) -> list[Region]:
    size = placement.model_width, placement.model_height
    parsed = codec.parse(codec.format(objects, *size), *size)
    assert parsed.found and not parsed.malformed
    return list(parsed.objects)


def values(objects: list[Region]) -> Array:
    return np.array([item.box or item.point for item in objects])


@pytest.mark.parametrize("name", GRIDS)
def test_ten_thousand_places_come_back_as_the_codec_said_them(name: str) -> None:
    codec = open_codec(Grounding(name))  # type: ignore[arg-type]
    grid, bins = GRIDS[name]
    rng = np.random.default_rng(7)
    unit, got, sides, frames, expected_frames = [], [], [], [], []
    for index, placement in enumerate(EVERY):
        places = places_of(placement, rng, 2 if codec.speaks == ("point",) else 4)
        if name == "edge_mm":  # it says them from left to right, by their centres
            middle = (places[:, :2] + places[:, 2:]) / 2
            places = places[np.lexsort((middle[:, 1], middle[:, 0]))]
        size = np.array([placement.model_width, placement.model_height] * (places.shape[1] // 2))
        objects = spoken(codec, regions(places), placement)
        got.append(values(objects))
        if index % 5 == 0:
            again = spoken(codec, objects, placement)
            if name == "edge_mm":  # centres that are one now may be said in another order
                again, objects = (
                    sorted(some, key=lambda item: item.box) for some in (again, objects)
                )
            assert again == objects
        unit.append(places)
        sides.append(np.broadcast_to(size, places.shape))
        frames.append(placement.from_unit(got[-1]))
        expected_frames.append(placement.from_unit(grid(places, size)))
    unit, got, sides = map(np.concatenate, (unit, got, sides))
    assert len(unit) == 10_000
    np.testing.assert_allclose(got, grid(unit, sides), atol=1e-12)
    np.testing.assert_allclose(np.concatenate(frames), np.concatenate(expected_frames), atol=1e-8)
    error = np.abs(got - unit) * sides  # in units of the model input
    bin_size = np.ones_like(unit) if bins is None else sides / bins
    assert (error <= bin_size * (half_bins(name, unit) / 2 + 1e-9)).all()


def half_bins(name: str, unit: Array) -> Array:
    """1, but 2 where our own codec or Kosmos-2 means all of the one bin that a box lies in."""
    same = np.zeros((len(unit), 1), bool)
    if name == "edge_mm":
        bins = np.floor(unit * 128).clip(0, 127)
        same = np.tile(bins[:, :2] == bins[:, 2:], 2)
    elif name == "kosmos2":
        same = (np.floor(unit[:, :2] * 32) >= np.ceil(unit[:, 2:] * 32 - 1)).any(1, keepdims=True)
    return 1 + same


def test_every_codec_is_tested() -> None:
    assert GRIDS.keys() == CODECS.keys() - {"none"}
