"""Drawing: what is painted where, and what is left alone."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm_runtime.answer import Answer, GroundedObject, Step
from edge_mm_runtime.draw import PALETTE, draw_answer

CUP = GroundedObject("red cup", (40.0, 60.0, 120.0, 150.0), (80.0, 100.0), 0.9)
EDGE = GroundedObject("bowl", (0.0, 0.0, 200.0, 200.0), None, 0.5)


def answer(*objects: GroundedObject, steps: tuple[Step, ...] = ()) -> Answer:
    text = ", ".join(item.label for item in objects) or "not in view"
    return Answer(text, objects, bool(objects), steps, "stop", {})


def test_box_and_point_are_painted_where_they_are() -> None:
    frame = np.zeros((200, 200, 3), np.uint8)
    picture = draw_answer(frame, answer(CUP))
    for x, y in [(40, 100), (120, 100), (80, 60), (80, 150), (80, 100)]:
        assert tuple(picture[y, x]) == PALETTE[0]
    assert not picture[90:95, 50:70].any()  # inside the box nothing is hidden
    assert not frame.any()  # the frame itself is not touched


@pytest.mark.parametrize("shape", [(200, 200), (200, 200, 1), (200, 200, 4), (3, 2, 3), (1, 1)])
def test_any_frame_can_be_drawn_on(shape: tuple[int, ...]) -> None:
    step = Step("place", "left of", CUP)
    for what in (answer(), answer(CUP, EDGE), answer(CUP, steps=(step,))):
        picture = draw_answer(np.zeros(shape, np.uint8), what)
        assert picture.shape == (*shape[:2], 3)


def test_an_absence_is_written_into_the_picture() -> None:
    assert draw_answer(np.zeros((100, 300, 3), np.uint8), answer()).any()
