"""Ids that stay, and boxes that are where the thing is by the time that an answer comes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from edge_mm_runtime import tracker as tracker_module
from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.errors import ImageError
from edge_mm_runtime.tracker import Tracker

RNG = np.random.default_rng(5)
BACKGROUND = cv2.GaussianBlur(RNG.integers(60, 200, (240, 320, 3), np.uint8), (0, 0), 3)
RED, BLUE = (
    cv2.GaussianBlur(RNG.integers(0, 255, (40, 40, 3), np.uint8), (0, 0), 1.5) for _ in range(2)
)
RED[..., 2], BLUE[..., 0] = 255, 255


def frame(red: int | None = None, blue: int | None = None) -> np.ndarray:
    """A red thing at x = red in the upper half, a blue one in the lower; None: it is not there."""
    drawn = BACKGROUND.copy()
    for x, y, thing in ((red, 40, RED), (blue, 150, BLUE)):
        if x is not None:
            width = min(40, 320 - x)
            drawn[y : y + 40, x : x + width] = thing[:, :width]
    return drawn


def red(x: float, label: str = "cup", dy: float = 0.0) -> GroundedObject:
    return GroundedObject(label, (x, 40 + dy, min(320, x + 40), 80 + dy), (x + 10, 70 + dy), 0.9)


def blue(x: float, label: str = "cup") -> GroundedObject:
    return GroundedObject(label, (x, 150, x + 40, 190), None, 0.8)


def begin(*objects: GroundedObject, **where: int) -> Tracker:
    tracker = Tracker()
    tracker.see(frame(**where))
    tracker.mark()
    tracker.ground(objects)
    return tracker


def ask(tracker: Tracker, *objects: GroundedObject, **where: int) -> tuple[list, tuple]:
    """One more frame, and an answer about it at once."""
    tracker.see(frame(**where))
    tracker.mark()
    made = tracker.ground(objects)
    return made.ids, made.lost


def test_boxes_follow_and_ids_stay() -> None:
    tracker = begin(red(50), blue(100), red=50, blue=100)
    for k in range(1, 20):
        assert tracker.see(frame(50 + 3 * k, 100 - k)) == ()
    first, second = tracker.objects()
    assert (first.track_id, second.track_id) == (1, 2)
    np.testing.assert_allclose(first.box_xyxy, red(107).box_xyxy, atol=1.0)
    np.testing.assert_allclose(first.point_xy, red(107).point_xy, atol=1.0)
    np.testing.assert_allclose(second.box_xyxy, blue(81).box_xyxy, atol=1.0)
    assert second.point_xy is None
    assert [track.age for track in tracker.tracks] == [19, 19]


def test_an_answer_about_an_old_frame_lands_where_the_thing_is_now() -> None:
    tracker = Tracker()
    tracker.see(frame(50, 100))
    tracker.mark()
    for k in range(1, 31):
        tracker.see(frame(50 + 4 * k, 100))
    assert tracker.ground([red(50), blue(100)]) == ([1, 2], (), False)
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(170).box_xyxy, atol=1.5)
    # And the next one, about a frame in the middle of the way, finds the same things.
    tracker.mark()
    for k in range(1, 11):
        tracker.see(frame(170 + 4 * k, 100))
    assert tracker.ground([blue(101), red(168, dy=2)]).ids == [2, 1]
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(210).box_xyxy, atol=2.5)


def test_a_new_thing_gets_a_new_id_and_no_id_comes_twice() -> None:
    tracker = begin(red(50), red=50)
    assert ask(tracker, red(51), blue(100), red=50, blue=100) == ([1, 2], ())
    for _ in range(2):
        ids, lost = ask(tracker, red(50), red=50, blue=100)
    assert (ids, lost) == ([1], ()) or lost == (2,)
    tracker.tracks.clear()
    assert ask(tracker, red(50), red=50)[0] == [3]


def at(tracker: Tracker, time_s: float, *objects: GroundedObject, **where: int) -> list:
    """A frame of a time, and an answer about it at once."""
    tracker.see(frame(**where), time_s)
    tracker.mark()
    return tracker.ground(objects).ids


def twins(*xs: int) -> np.ndarray:
    """Red things that look the same, side by side."""
    drawn = BACKGROUND.copy()
    for x in xs:
        drawn[40:80, x : x + 40] = RED
    return drawn


@pytest.mark.parametrize(("away_s", "id"), [(5.0, 1), (15.0, 2)])
def test_what_leaves_and_comes_back_has_its_id_for_some_seconds(away_s: float, id: int) -> None:
    tracker = Tracker()
    assert at(tracker, 0.0, red(240), red=240) == [1]
    lost = ()
    for k in range(1, 20):
        lost += tracker.see(frame(min(320, 240 + 4 * k)), k / 30)
    assert lost == (1,)
    assert at(tracker, away_s, red=None) == []
    assert at(tracker, away_s + 0.1, red(260), red=260) == [id]
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(260).box_xyxy, atol=0.5)
    tracker.see(frame(256), away_s + 0.2)  # and it is followed as any other
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(256).box_xyxy, atol=1.0)


def test_an_answer_that_wavers_gives_one_id() -> None:
    tracker = begin(red(50), red=50)
    for _ in range(6):
        assert ask(tracker, red=50) == ([], (1,))
        assert ask(tracker, red(51), red=50) == ([1], ())


def test_things_that_look_alike_keep_their_own_ids() -> None:
    tracker = Tracker()
    picture = twins(30, 120, 250)
    places = [red(30), red(120), red(250)]
    for named in ([0, 1], [0], [2, 0], [0, 1, 2], [1, 2], [2, 1, 0]):
        tracker.see(picture)
        tracker.mark()
        ids = tracker.ground([places[k] for k in named]).ids
        # The middle one was lost when the right one was found, and it is not the right one.
        assert ids == [k + 1 for k in named]
        shown = [item.track_id for item in tracker.objects()]
        assert len(shown) == len(set(shown))


def test_a_wavering_adjective_is_one_thing_and_its_last_label_is_shown() -> None:
    tracker = begin(red(50, "red cup"), red=50)
    assert ask(tracker, red(50, "brown cup"), red=50)[0] == [1]
    assert [item.label for item in tracker.objects()] == ["brown cup"]
    assert ask(tracker, red(50, "red bowl"), red=50)[0] == [2]


def test_what_answers_make_up_for_ever_is_forgotten() -> None:
    tracker = begin()
    for k in range(40):
        ids, _ = ask(tracker, red(50, label=f"thing {k}x"))
        assert ids == [k + 1] and len(tracker.memory) <= 16 and len(tracker.tracks) == 1
    tracker.see(frame(), time_s=1e3)
    assert len(tracker.memory) == 0


def test_another_label_is_another_thing() -> None:
    tracker = begin(red(50, "cup"), red=50)
    assert ask(tracker, red(50, "bowl"), red=50)[0] == [2]


def test_the_model_and_the_tracker_are_weighed() -> None:
    tracker = begin(red(50), red=50)
    ask(tracker, red(54), red=50)
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(52).box_xyxy, atol=0.5)


def test_three_misses_in_a_row_lose_a_track_and_two_do_not() -> None:
    tracker = begin(red(50), red=50)
    ask(tracker, red(50), red=50)
    assert ask(tracker, red=50) == ([], ())
    assert ask(tracker, red(50), red=50) == ([1], ())  # found again: the count begins anew
    for _ in range(2):
        assert ask(tracker, red=50)[1] == ()
    assert len(tracker.objects()) == 1  # missed twice, but it is still followed
    assert ask(tracker, red=50)[1] == (1,)
    assert tracker.objects() == () and tracker.tracks == []


def test_what_one_answer_only_ever_found_is_lost_by_one_miss() -> None:
    tracker = begin(red(50), red=50)
    assert ask(tracker, red=50)[1] == (1,)


def test_an_answer_that_was_cut_short_misses_nothing() -> None:
    tracker = begin(red(50), red=50)
    for _ in range(3):
        tracker.see(frame(50))
        tracker.mark()
        assert tracker.ground([], whole=False).lost == ()
    assert [item.track_id for item in tracker.objects()] == [1]


def test_leaving_the_frame_is_a_loss_and_a_late_answer_does_not_bring_it_back() -> None:
    tracker = begin(red(240), red=240)
    tracker.mark()
    lost = ()
    for x in range(244, 320, 4):
        lost += tracker.see(frame(x))
    assert lost == (1,)
    assert tracker.ground([red(240)]) == ([None], (), False)
    assert tracker.objects() == ()


def test_a_thing_that_vanishes_is_uncertain_then_lost_by_the_answers() -> None:
    tracker = begin(red(50), red=50)
    for _ in range(2):
        ask(tracker, red(50), red=50)
    tracker.see(frame())
    assert (tracker.tracks[0].state, tracker.objects()) == ("uncertain", ())
    assert ask(tracker) == ([], ())
    assert ask(tracker) == ([], (1,))


def test_an_uncertain_track_is_known_again_elsewhere_by_its_look() -> None:
    tracker = begin(red(50), red=50)
    tracker.see(frame())
    ids, _ = ask(tracker, red(200), red=200)
    assert ids == [1]
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(200).box_xyxy, atol=0.5)
    tracker.see(frame())
    assert ask(tracker, GroundedObject("cup", (50, 150, 90, 190), None, 0.9), blue=50)[0] == [2]


def test_what_was_covered_comes_back_without_an_answer() -> None:
    tracker = begin(red(50), red=50)
    tracker.see(frame())
    tracker.see(frame(55))
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(55).box_xyxy, atol=1.0)


def test_an_answer_that_cannot_be_placed_any_more_says_so() -> None:
    tracker = Tracker()
    tracker.see(frame(50))
    tracker.mark()
    for _ in range(3):
        tracker.see(frame())
    assert tracker.ground([red(50)]) == ([None], (), True)


def test_a_bare_point_is_carried_and_stays_bare() -> None:
    point = GroundedObject("cup", None, (70.0, 60.0), 0.9)
    tracker = begin(point, red=50)
    for k in range(1, 10):
        tracker.see(frame(50 + 3 * k))
    [item] = tracker.objects()
    assert item.box_xyxy is None
    np.testing.assert_allclose(item.point_xy, (97.0, 60.0), atol=1.0)


def test_the_same_thing_named_twice_is_one_track() -> None:
    tracker = Tracker()
    tracker.see(frame(50, 100))
    tracker.mark()
    assert tracker.ground([red(50), blue(100), red(51)]).ids == [1, 2, 1]
    assert len(tracker.objects()) == 2


def test_frames_of_another_size_make_everything_uncertain() -> None:
    tracker = begin(red(50), red=50)
    tracker.mark()
    tracker.see(cv2.resize(frame(50), (640, 480)))
    assert tracker.tracks[0].state == "uncertain" and not tracker.marked
    assert tracker.ground([red(50)]) == ([None], (), True)
    tracker.see(cv2.resize(frame(50), (640, 480)))
    tracker.mark()
    twice = GroundedObject("cup", (100, 80, 180, 160), None, 0.9)
    assert tracker.ground([twice]).ids == [1]
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, twice.box_xyxy, atol=1.0)


def test_a_slow_answer_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "BUFFER", 8)
    tracker = Tracker()
    tracker.see(frame(50))
    tracker.mark()
    for k in range(1, 60):
        tracker.see(frame(50 + k))
        assert len(tracker._since) <= 8
    assert tracker.ground([red(50)]).ids == [1]
    np.testing.assert_allclose(tracker.objects()[0].box_xyxy, red(109).box_xyxy, atol=1.5)


def test_boxes_stay_in_the_frame_and_an_empty_one_is_shown() -> None:
    tracker = begin(GroundedObject("cup", (10.0, 20.0, 10.0, 60.0), None, 0.5), red=50)
    [item] = tracker.objects()
    assert item.box_xyxy is not None and item.box_xyxy[2] - item.box_xyxy[0] == pytest.approx(1.0)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(ImageError):
        Tracker().see(np.zeros((4, 4), np.float32))
