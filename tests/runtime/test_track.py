"""Which of the things that were lost comes back, by look, place, time and label."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.follow import Held
from edge_mm_runtime.track import REMEMBERED, REMEMBERED_S, Memory, Track

FRAME = np.array([320.0, 240.0])
EMPTY = np.zeros((0, 2), np.float32)


def held(x: float, y: float = 100, side: float = 40, look: int = 0) -> Held:
    """A square box with its left upper corner at x, y; looks 0, 1, 2 have nothing in common."""
    box = np.array([x, y, x + side, y + side])
    return Held(box, np.eye(3, dtype=np.float32)[look], box, EMPTY, EMPTY, FRAME, FRAME)


def thing(label: str = "red cup") -> GroundedObject:
    return GroundedObject(label, (0.0, 0.0, 1.0, 1.0), None, 0.9)


def lost(*items: Held, label: str = "red cup") -> Memory:
    """A memory in which these were lost at 0 s, with ids from 1 on."""
    memory = Memory()
    for number, item in enumerate(items, start=1):
        memory.keep(Track(number, thing(label), item), FRAME, 0.0)
    return memory


def recalled(
    memory: Memory, *items: Held, now_s: float = 0.1, label: str = "red cup"
) -> dict[int, int]:
    """The place of each object -> the id that it has again."""
    return memory.recall([(thing(label), item) for item in items], FRAME, now_s)


def test_it_comes_back_where_it_was_and_only_once() -> None:
    memory = lost(held(100))
    assert recalled(memory, held(104)) == {0: 1}
    assert len(memory) == 0 and recalled(memory, held(104)) == {}


@pytest.mark.parametrize(("now_s", "id"), [(REMEMBERED_S - 0.1, {0: 1}), (REMEMBERED_S + 0.1, {})])
def test_it_is_forgotten_in_time(now_s: float, id: dict[int, int]) -> None:
    assert recalled(lost(held(100)), held(100), now_s=now_s) == id


@pytest.mark.parametrize(
    ("now_s", "x", "id"),
    # The frame is 320 wide and the box 40: at once as far as 40, a second later 80 further.
    [(0.0, 138, {0: 1}), (0.0, 142, {}), (1.0, 218, {0: 1}), (1.0, 222, {}), (4.0, 280, {0: 1})],
)
def test_how_far_it_may_have_gone(now_s: float, x: float, id: dict[int, int]) -> None:
    assert recalled(lost(held(100)), held(x), now_s=now_s) == id


@pytest.mark.parametrize(("side", "id"), [(19, {}), (21, {0: 1}), (79, {0: 1}), (81, {})])
def test_how_much_it_may_have_grown(side: float, id: dict[int, int]) -> None:
    middle = 120 - side / 2
    assert recalled(lost(held(100)), held(middle, middle, side)) == id


def test_what_looks_otherwise_is_another_thing() -> None:
    assert recalled(lost(held(100)), held(100, look=1)) == {}


def test_another_kind_is_another_thing_and_another_adjective_is_not() -> None:
    assert recalled(lost(held(100)), held(100), label="red bowl") == {}
    assert recalled(lost(held(100)), held(100), label="Brown Cup") == {0: 1}


def test_of_things_that_look_alike_each_takes_the_nearest_id() -> None:
    memory = lost(held(100), held(150), held(200))
    assert recalled(memory, held(205), held(95), now_s=3.0) == {0: 3, 1: 1}
    assert recalled(memory, held(160), held(170), now_s=3.0) == {0: 2}  # an id for one of them


def test_the_look_decides_between_things_in_one_place() -> None:
    memory = lost(held(100, look=0), held(102, look=1))
    assert recalled(memory, held(100, look=1), held(102, look=0)) == {0: 2, 1: 1}


def test_a_place_is_known_in_frames_of_another_size() -> None:
    memory = lost(held(100, 50, 40))
    half = held(50, 25, 20)
    assert memory.recall([(thing(), half)], FRAME / 2, 0.0) == {0: 1}


def test_the_last_ones_are_remembered_and_no_more() -> None:
    memory = Memory()
    for number in range(1000):
        memory.keep(Track(number, thing(f"thing {number}"), held(100)), FRAME, number / 1000)
        assert len(memory) <= REMEMBERED
    assert recalled(memory, held(100), label="thing 999") == {0: 999}
    assert recalled(memory, held(100), label=f"thing {999 - REMEMBERED}") == {}
    memory.forget(2 * REMEMBERED_S)
    assert len(memory) == 0
