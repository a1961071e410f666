"""A small data set: labels agree with the segmentation, runs repeat and resume, splits hold."""

import ctypes.util
import json

import cv2
import numpy as np
import pytest

from edge_mm.data.tabletop.splits import HELD_OUT_PAIRS, SPLITS, Rules, scene_seed
from edge_mm.data.tabletop.textures import HELD_OUT
from edge_mm.data.tabletop.write import check_renderer, make_dataset
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import EdgeMMError, UsageError

needs_renderer = pytest.mark.skipif(
    ctypes.util.find_library("OSMesa") is None, reason="sudo apt-get install libosmesa6"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    pytest.importorskip("mujoco")
    out = tmp_path_factory.mktemp("tabletop")
    index = make_dataset(out, count=7, seed=5, split="train", workers=1, depth=True)
    return out, json.loads(index.read_text())


@needs_renderer
def test_labels_agree_with_the_segmentation(dataset):
    out, index = dataset
    assert index["schema"] == 1 and len(index["scenes"]) == 7
    for scene in index["scenes"]:
        image = cv2.imread(str(out / scene["image"]))
        ids = cv2.imread(str(out / scene["segmentation"]), cv2.IMREAD_UNCHANGED)
        assert image.shape[:2] == ids.shape == (scene["height"], scene["width"])
        assert image.std() > 3
        assert set(np.unique(ids)) - {0} == {item["id"] for item in scene["objects"]}
        for item in scene["objects"]:
            y, x = np.nonzero(ids == item["id"])
            assert item["box_xyxy"] == [x.min(), y.min(), x.max() + 1, y.max() + 1]
            px, py = item["point_xy"]
            assert ids[py, px] == item["id"]
            assert item["kind"] in KINDS and item["color"] in COLORS
            assert 0.15 <= item["visible"] <= 1 and len(x) >= 40
            full = item["full_box_xyxy"]
            assert full[0] <= x.min() and full[1] <= y.min()
            assert full[2] > x.max() and full[3] > y.max()


@needs_renderer
def test_depth_and_camera_agree_with_positions(dataset):
    """The depth under an object's grasp point, projected back, lies on or above the table."""
    out, index = dataset
    for scene in index["scenes"]:
        depth = cv2.imread(str(out / scene["depth"]), cv2.IMREAD_UNCHANGED).astype(float) / 1000
        camera = scene["camera"]
        pose = np.array(camera["world_from_camera"])
        for item in scene["objects"]:
            x, y = item["point_xy"]
            z = depth[y, x]
            ray = [
                (x + 0.5 - camera["cx"]) / camera["fx"],
                (y + 0.5 - camera["cy"]) / camera["fy"],
                1,
            ]
            world = (pose @ np.append(np.array(ray) * z, 1))[:3]
            assert -0.01 < world[2] < 0.5
            flat = np.hypot(*(world[:2] - item["position_m"][:2]))
            assert flat < item["size_m"] * 0.75 + 0.01


@needs_renderer
def test_a_run_repeats_and_resumes(dataset, tmp_path):
    out, index = dataset
    make_dataset(tmp_path, count=2, seed=5, split="train", workers=1)
    early = (tmp_path / "images" / "000001.jpg").read_bytes()
    assert early == (out / "images" / "000001.jpg").read_bytes()
    (tmp_path / "labels" / "000000.json").unlink()
    (tmp_path / "images" / "000001.jpg").write_bytes(b"kept as it is")
    with pytest.raises(UsageError, match=r"000001[.]jpg"):  # the sheet meets the broken picture
        make_dataset(tmp_path, count=2, seed=5, split="train", workers=1)
    again = json.loads((tmp_path / "scenes.json").read_text())["scenes"]
    assert [{**a, "depth": None} for a in index["scenes"][:2]] == again
    assert (tmp_path / "images" / "000001.jpg").read_bytes() == b"kept as it is"
    with pytest.raises(UsageError, match="use another folder"):
        make_dataset(tmp_path, count=2, seed=6, split="train", workers=1)


@needs_renderer
def test_combos_show_a_held_out_pair(tmp_path):
    pytest.importorskip("mujoco")
    index = make_dataset(tmp_path, count=4, seed=5, split="combos", workers=1)
    for scene in json.loads(index.read_text())["scenes"]:
        assert {(o["kind"], o["color"]) for o in scene["objects"]} & HELD_OUT_PAIRS


def test_split_rules():
    rng = np.random.default_rng(0)
    from edge_mm.data.tabletop.layout import choose_things

    for split in SPLITS:
        rules = Rules(split)
        things = [thing for _ in range(12) for thing in choose_things(rules, 4, rng)]
        held_meshes = {int(thing.mesh[-4:]) >= 800 for thing in things}
        assert held_meshes == {split == "meshes"}
        held_pairs = [(thing.kind, thing.color) in HELD_OUT_PAIRS for thing in things]
        assert any(held_pairs) == (split == "combos")
        cameras = [rules.camera(rng) for _ in range(200)]
        banded = [fov >= 60 and 32 <= elevation <= 46 for fov, elevation in cameras]
        assert all(banded) if split == "looks" else not any(banded)
        assert {name in HELD_OUT for name in rules.surfaces()} == {split == "looks"}


def test_scene_seeds_are_disjoint():
    seeds = {scene_seed(s, split, k) for s in (0, 999) for split in SPLITS for k in (0, 9_999_999)}
    assert len(seeds) == 2 * len(SPLITS) * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "choose one of train"),
        ({"count": 0}, "count 0"),
        ({"seed": -1}, "seed -1"),
        ({"workers": 0}, "workers 0"),
    ],
)
def test_bad_arguments(tmp_path, change, message):
    arguments = {"count": 1, "seed": 0, "split": "train", "workers": 1, **change}
    with pytest.raises(UsageError, match=message):
        make_dataset(tmp_path, **arguments)


def test_missing_osmesa_names_the_line_that_installs_it(monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(EdgeMMError, match="sudo apt-get install libosmesa6"):
        check_renderer()
