"""The difference of two frames, against block means by numpy; and sessions that go by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from edge_mm_runtime import Session
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import ImageTransform
from edge_mm_runtime.runner import Array, Arrays, TensorSpec
from edge_mm_runtime.similar import difference, thumbnail
from edge_mm_runtime.view import Viewer

TRANSFORM = ImageTransform("squash", 32, 32)
GREY = np.full((32, 32, 3), 100, np.uint8)


def small(frame: np.ndarray) -> np.ndarray:
    return thumbnail(TRANSFORM.apply(frame), TRANSFORM)


def test_a_thumbnail_is_the_mean_grey_of_each_cell() -> None:
    frame = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    expected = frame.astype(float).mean(axis=2).reshape(16, 2, 16, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(small(frame), expected, atol=0.01)


def test_a_small_thing_that_moves_is_a_difference() -> None:
    frame = GREY.copy()
    frame[10:12, 10:12] = 150  # one cell of 256
    assert difference(small(GREY), small(frame)) == pytest.approx(50, abs=0.01)


def test_noise_is_little() -> None:
    noise = np.random.default_rng(1).normal(0, 4, (480, 640, 3))
    frame = np.full((480, 640, 3), 100, np.uint8)
    noisy = np.clip(frame + noise, 0, 255).astype(np.uint8)
    assert difference(small(frame), small(noisy)) < 2


@pytest.mark.parametrize("threshold", [-1.0, float("nan"), float("inf")])
def test_what_is_no_threshold_is_refused(tiny_bundle: Path, threshold: float) -> None:
    with pytest.raises(UsageError, match=r"similar is .*: give the grey levels"):
        Session(tiny_bundle, threads=1, similar=threshold)


def test_it_is_off_by_default(tiny_bundle: Path) -> None:
    with Session(tiny_bundle, threads=1) as session:
        session.ask(GREY, "find the red cup", max_new_tokens=1)
        work = session.ask(GREY + 1, "find the red cup", max_new_tokens=1).work
    assert work is not None
    assert (work.looked, work.similar) == (True, False)


def test_frames_are_compared_with_the_one_that_was_looked_at(tiny_bundle: Path) -> None:
    with Session(tiny_bundle, threads=1, similar=4.5) as session:
        works = [
            session.ask(GREY + step, "find the red cup", max_new_tokens=1).work
            for step in range(11)  # one level each: never far from the frame before
        ]
        same = session.ask(GREY + 10, "find the red cup", max_new_tokens=1).work
    assert all(work is not None for work in [*works, same])
    looked = [step for step, work in enumerate(works) if work and work.looked]
    assert looked == [0, 5, 10]
    assert all(work and work.similar is not work.looked for work in works)
    assert same
    assert (same.looked, same.similar) == (False, False)  # the very frame that was looked at


def test_an_input_of_another_size_is_not_similar() -> None:
    class Eye:
        inputs: ClassVar[dict[str, TensorSpec]] = {}
        outputs: ClassVar[dict[str, TensorSpec]] = {}

        def run(self, inputs: Mapping[str, Array]) -> Arrays:
            return {"image_embeds": np.zeros((1, 4, 8), np.float32)}

        def close(self) -> None:
            pass

    viewer = Viewer(Eye(), TRANSFORM, points=False, similar=5.0)
    looks = [
        viewer.look(np.full((1, 3, *size), value, np.float32))
        for size, value in (((32, 32), 0), ((32, 32), 0.001), ((64, 32), 0.001))
    ]
    assert [(look.looked, look.similar) for look in looks] == [
        (True, False),
        (False, True),
        (True, False),
    ]


def test_boxes_are_placed_in_the_new_frame(spoken_bundle: Callable[..., Path]) -> None:
    wide = np.full((64, 96, 3), 101, np.uint8)
    with Session(spoken_bundle("<ref>red cup</ref><box>"), 1, similar=2.0) as session:
        first = session.ask(GREY, "find the red cup", mode="locate")
        second = session.ask(wide, "find the red cup", mode="locate")
    assert second.work
    assert second.work.similar
    assert second.objects
    for one, other in zip(first.objects, second.objects, strict=True):
        assert one.box_xyxy is not None
        scaled = np.array(one.box_xyxy) * [3, 2, 3, 2]
        np.testing.assert_allclose(other.box_xyxy, scaled, rtol=1e-6)
