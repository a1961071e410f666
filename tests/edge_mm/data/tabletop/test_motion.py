"""Sequences: the script keeps its promises, files come back as they were, the truth is true."""

from __future__ import annotations

import ctypes.util
import importlib.util
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mm.data.tabletop import motion_script as script
from edge_mm.data.tabletop.motion import (
    MotionSequence,
    Sight,
    make_sequence,
    read_sequence,
    write_sequence,
)
from edge_mm.data.tabletop.splits import Rules
from edge_mm_runtime.errors import UsageError

needs_renderer = pytest.mark.skipif(
    ctypes.util.find_library("OSMesa") is None, reason="sudo apt-get install libosmesa6"
)
SIZE = (320, 240)


@pytest.fixture(scope="module", params=[1, 2])
def plan(request: pytest.FixtureRequest) -> script.Plan:
    return script.plan(Rules("val"), SIZE, np.random.default_rng(request.param))


def points(plan: script.Plan, share: float) -> list[np.ndarray]:
    """World points of all things."""
    return [
        thing.points @ pose.rotation.T + pose.position
        for thing, pose in zip(plan.things, script.poses(plan, share), strict=True)
    ]


def seen(plan: script.Plan, share: float) -> list[float]:
    """What share of each thing's vertices the frame holds."""
    camera = script.camera(plan, SIZE, share)
    found = []
    for cloud in points(plan, share):
        xy = camera.project(cloud)
        found.append(float(((xy >= 0) & (xy < SIZE)).all(1).mean()))
    return found


def test_no_two_things_have_one_name(plan: script.Plan) -> None:
    steady, slider, leaver, passer = plan.things
    assert steady.kind == slider.kind and steady.color != slider.color
    assert len({steady.kind, leaver.kind, passer.kind}) == 3
    assert len({thing.color for thing in plan.things}) == 4


def test_everything_stands_on_the_table(plan: script.Plan) -> None:
    for share in (0.0, 0.4, 1.0):
        for cloud in points(plan, share):
            assert cloud[:, 2].min() == pytest.approx(0, abs=1e-9)


def test_nothing_runs_into_anything(plan: script.Plan) -> None:
    gaps = []
    for share in np.linspace(0, 1, 16):
        clouds = [cloud[:, :2] for cloud in points(plan, float(share))]
        for k, one in enumerate(clouds):
            for other in clouds[k + 1 :]:
                apart = np.linalg.norm((one.max(0) + one.min(0) - other.max(0) - other.min(0)) / 2)
                nearest = np.linalg.norm(one[::17, None] - other[None, ::17], axis=2).min()
                gaps.append(min(apart, nearest))
    assert min(gaps) > 0.004


def test_the_leaver_leaves_and_returns_and_the_passer_visits(plan: script.Plan) -> None:
    start, middle, end = seen(plan, 0.0), seen(plan, 0.55), seen(plan, 1.0)
    assert min(start[:3]) > 0.9 and start[3] == 0.0
    assert middle[2] == 0.0 and middle[3] > 0.3
    assert min(end[:3]) > 0.8 and end[3] == 0.0


def test_the_passer_hides_some_of_the_steady_thing(plan: script.Plan) -> None:
    """In the middle, both lie in one direction from the camera, the passer nearer."""
    camera = script.camera(plan, SIZE, 0.58)
    clouds = points(plan, 0.58)
    steady, passer = (camera.project(clouds[k]) for k in (0, 3))
    assert passer[:, 0].min() < steady[:, 0].max() and steady[:, 0].min() < passer[:, 0].max()
    assert camera.to_camera(clouds[3])[:, 2].mean() < camera.to_camera(clouds[0])[:, 2].mean()


def test_motion_is_smooth(plan: script.Plan) -> None:
    """At 90 frames nothing jumps: a path is as long as its chords, and begins and ends at rest."""
    spots = np.array(
        [[pose.position for pose in script.poses(plan, share)] for share in np.linspace(0, 1, 90)]
    )
    steps = np.linalg.norm(np.diff(spots, axis=0), axis=2)
    assert steps[0].max() < 1e-6 and steps[-1].max() < 1e-6
    assert np.abs(np.diff(steps, axis=0)).max() < 0.25 * steps.max()


def test_a_sequence_comes_back_from_its_files(tmp_path: Path) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8), (80, 64))
    truth = [{0: Sight((1.0, 2.0, 30.0, 40.0), 0.75)}, {}]
    made = MotionSequence([smooth, smooth[::-1]], truth, ("red cup", "blue cup"), 25.0)
    write_sequence(made, tmp_path / "one")
    read = read_sequence(tmp_path / "one")
    assert (read.truth, read.labels, read.frames_per_s) == (truth, made.labels, 25.0)
    for wanted, frame in zip(made.frames, read.frames, strict=True):
        assert np.abs(wanted.astype(int) - frame).mean() < 3


def test_what_is_no_sequence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no sequence\.json"):
        read_sequence(tmp_path)
    (tmp_path / "sequence.json").write_text('{"version": 0}')
    with pytest.raises(UsageError, match="version 0"):
        read_sequence(tmp_path)


@pytest.mark.parametrize(("frames", "size"), [(1, SIZE), (5, (640, 480)), (5, (8, 8))])
def test_impossible_sequences_are_refused(frames: int, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at least 2 frames"):
        make_sequence(0, frames, size)


@needs_renderer
def test_the_truth_is_where_the_pixels_change() -> None:
    """The leaver is in the first frame and gone from the second of three."""
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("pip install 'edge-mm[data]'")
    # In a process of its own: this one may have loaded MuJoCo for another kind of OpenGL.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        made = pool.submit(make_sequence, 3, 3, (160, 120)).result()
    assert [frame.shape for frame in made.frames] == [(120, 160, 3)] * 3
    first, middle, _ = made.truth
    assert {0, 1, 2} <= set(first) and 2 not in middle and 3 in middle
    for sights in made.truth:
        for sight in sights.values():
            x1, y1, x2, y2 = sight.box_xyxy
            assert 0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 120 and 0.15 <= sight.visible <= 1
    x1, y1, x2, y2 = (int(value) for value in first[2].box_xyxy)
    changed = np.abs(made.frames[0].astype(int) - made.frames[1]).sum(2)
    outside = changed[:, : max(1, x1 // 8)]
    assert changed[y1:y2, x1:x2].mean() > 20 + outside[:20].mean()
