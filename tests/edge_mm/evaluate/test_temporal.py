"""Temporal figures of recordings made by hand, whose figures can be counted on fingers."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm.data.tabletop.motion import Sight
from edge_mm.evaluate.temporal import Recording, Shown, Tally, figures, measure, merged
from edge_mm.evaluate.temporal_run import alone, simulate
from edge_mm_runtime.answer import Answer, GroundedObject

BOX = (10.0, 10.0, 40.0, 50.0)  # 30 x 40: a diagonal of 50
RATE = 10.0


def at(x: float) -> tuple[float, float, float, float]:
    return (BOX[0] + x, BOX[1], BOX[2] + x, BOX[3])


def truth(visible: list[float | None], thing: int = 0) -> list[dict[int, Sight]]:
    return [{} if share is None else {thing: Sight(BOX, share)} for share in visible]


def recording(*frames: list[Shown], lost: dict[int, tuple[int, ...]] | None = None) -> Recording:
    gone = lost or {}
    return Recording(list(frames), [gone.get(k, ()) for k in range(len(frames))])


def test_a_perfect_recording() -> None:
    found = figures(measure(recording(*[[Shown(1, BOX)]] * 5), truth([1.0] * 5), RATE))
    assert (found.iou, found.found, found.centre_error, found.jitter) == (1.0, 1.0, 0.0, 0.0)
    assert (found.flicker_per_s, found.switches, found.false_boxes) == (0.0, 0, 0.0)
    assert (found.losses, found.declared, found.delay_s, found.false_losses) == (0, 0, None, 0)


def test_box_error_and_jitter() -> None:
    # 5 pixels of 50 off to the right, then to the left: an error of 0.1, a jump of 0.2 each time.
    frames = [[Shown(1, at(5))], [Shown(1, at(-5))], [Shown(1, at(5))]]
    found = figures(measure(recording(*frames), truth([1.0] * 3), RATE))
    assert found.iou == pytest.approx(25 / 35)
    assert found.centre_error == pytest.approx(0.1)
    assert found.jitter == pytest.approx(20.0)


def test_flicker_and_what_is_not_shown_counts_nothing_for_iou() -> None:
    shown, nothing = [Shown(1, BOX)], []
    frames = [nothing, shown, shown, nothing, shown, nothing, nothing, shown, shown, shown]
    found = figures(measure(recording(*frames), truth([1.0] * 10), RATE))
    assert found.flicker_per_s == pytest.approx(4.0)  # four changes in one second, after the first
    assert (found.found, found.iou) == (pytest.approx(0.6), pytest.approx(0.6))
    assert measure(recording(*frames), truth([1.0] * 10), RATE, first=7).changes == 0


def test_switches_and_that_a_return_is_none() -> None:
    ids = [1, 1, 2, 2, 1]
    frames = [[Shown(k, BOX)] for k in ids]
    assert measure(recording(*frames), truth([1.0] * 5), RATE).switches == 2
    away = truth([1.0, 1.0, None, 1.0, 1.0])
    assert measure(recording(*frames), away, RATE).switches == 1  # from 2 to 1, in view
    # A thing that is found again under another id after it was not shown: a switch.
    frames[1], frames[2] = [], []
    assert measure(recording(*frames), truth([1.0] * 5), RATE).switches == 2


def test_ids_count_over_the_things_that_came_into_view() -> None:
    far = (100.0, 10.0, 130.0, 50.0)
    frames = [[Shown(1, BOX)], [Shown(2, BOX), Shown(3, far)], [Shown(2, BOX)]]
    found = figures(measure(recording(*frames), truth([1.0] * 3), RATE))
    assert found.ids_per_thing == 3.0  # two of the thing, one of nothing
    unnamed = measure(recording([Shown(None, BOX)]), truth([1.0]), RATE)
    assert figures(unnamed).ids_per_thing == 0.0
    nothing = figures(measure(recording([]), [{}], RATE))
    assert nothing.ids_per_thing is None


def test_two_things_swap_their_ids() -> None:
    far = (100.0, 10.0, 130.0, 50.0)
    both = [{0: Sight(BOX, 1.0), 1: Sight(far, 1.0)}] * 2
    swapped = recording([Shown(1, BOX), Shown(2, far)], [Shown(1, far), Shown(2, BOX)])
    assert measure(swapped, both, RATE).switches == 2
    # A pair stays while it overlaps enough, even if another box fits better.
    stays = recording([Shown(1, BOX)], [Shown(1, at(10)), Shown(2, BOX)])
    tally = measure(stays, truth([1.0, 1.0]), RATE)
    assert (tally.switches, tally.false_boxes) == (0, 1)


def test_false_boxes_and_what_is_half_hidden() -> None:
    frames = [[Shown(1, BOX), Shown(2, at(100))], [Shown(1, BOX)], [Shown(1, BOX)]]
    found = figures(measure(recording(*frames), truth([1.0, 0.3, None]), RATE))
    assert found.false_boxes == pytest.approx(2 / 3)  # the stray one, and the one of what is gone
    assert found.iou == 1.0 and found.found == 1.0  # of the one frame in which it is in view


def test_a_loss_that_is_declared() -> None:
    shown, nothing = [Shown(7, BOX)], []
    gone = recording(shown, shown, nothing, nothing, nothing, lost={4: (7,)})
    found = figures(measure(gone, truth([1.0, 1.0, None, None, None]), RATE))
    assert (found.losses, found.declared, found.early) == (1, 1, 0)
    assert found.delay_s == pytest.approx(0.3)  # last visible in frame 1, declared in 4
    assert found.false_losses == 0


def test_a_loss_that_nobody_declares() -> None:
    shown, nothing = [Shown(7, BOX)], []
    away = truth([1.0, 1.0, None, None, 1.0])
    silent = measure(recording(shown, shown, nothing, nothing, shown), away, RATE)
    assert (silent.losses, silent.delays_s) == (1, [])
    late = recording(shown, shown, nothing, nothing, nothing, lost={4: (7,)})
    tally = measure(late, away, RATE)
    assert (tally.losses, tally.delays_s, tally.false_losses) == (1, [], 0)


def test_a_loss_may_be_declared_while_the_thing_is_going() -> None:
    shown = [Shown(7, BOX)]
    going = recording(shown, shown, [], [], lost={2: (7,)})
    found = figures(measure(going, truth([1.0, 0.6, 0.3, None]), RATE))
    assert (found.losses, found.declared, found.early, found.delay_s) == (1, 1, 1, 0.0)


def test_a_false_loss() -> None:
    shown = [Shown(7, BOX)]
    wrong = recording(shown, shown, [], [], [], [], lost={2: (7,)})
    tally = measure(wrong, truth([1.0] * 6), RATE)
    assert (tally.false_losses, tally.losses) == (1, 0)
    # Half a second before it goes is not "going" either.
    early = recording(shown, *[[]] * 7, lost={1: (7,)})
    assert measure(early, truth([1.0] * 7 + [None]), RATE).false_losses == 1


def test_sums_are_merged() -> None:
    good = measure(recording([Shown(1, BOX)]), truth([1.0]), RATE)
    none = measure(recording([]), truth([1.0]), RATE)
    found = figures(merged([good, none]))
    assert (found.found, found.iou) == (0.5, 0.5)
    assert figures(Tally()).iou is None


def moving(number: int) -> np.ndarray:
    """A textured square that goes right by a pixel a frame."""
    texture = np.random.default_rng(0).integers(0, 255, (10, 10, 3), np.uint8)
    frame = np.full((120, 160, 3), 90, np.uint8)
    frame[40:80, 20 + number : 60 + number] = np.kron(texture, np.ones((4, 4, 1), np.uint8))
    return frame


def answer(number: int) -> Answer:
    cup = GroundedObject("cup", (20.0 + number, 40.0, 60.0 + number, 80.0), None, 0.9)
    return Answer("cup", (cup,), True, (), "stop", {})


def test_a_simulated_clock_asks_about_the_newest_frame_and_answers_later() -> None:
    asked: list[int] = []

    def ask(number: int) -> Answer:
        asked.append(number)
        return answer(number)

    frames = [moving(number) for number in range(31)]
    runs = simulate(frames, ask, rate_hz=3, frames_per_s=30)
    assert (asked, runs.first) == ([0, 10, 20], 10)
    assert [look is None for look in runs.looks] == [number < 10 for number in range(31)]
    assert runs.looks[25].answer.age_s == pytest.approx(0.5)
    assert runs.held.shown[19][0].box == (20, 40, 60, 80)  # as it was in frame 0
    sights = [{0: Sight((20.0 + k, 40.0, 60.0 + k, 80.0), 1.0)} for k in range(31)]
    tracked, held = (
        figures(measure(run, sights, 30, first=runs.first)) for run in (runs.tracked, runs.held)
    )
    assert tracked.iou > 0.95 and tracked.switches == 0
    # Held boxes are 10 to 19 frames old: (40 - d) / (40 + d) of 40 pixels, on average
    wanted = np.mean([(40 - d) / (40 + d) for d in [*range(10, 20), *range(10, 20), 10]])
    assert held.iou == pytest.approx(wanted)
    assert alone(3, answer).shown[2] == [Shown(0, (22.0, 40.0, 62.0, 80.0))]
