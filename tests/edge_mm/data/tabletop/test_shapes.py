"""Every kind builds; its parts face outwards and stand on the table."""

import numpy as np
import pytest

from edge_mm.data.tabletop.kinds import color_weights, sample_color
from edge_mm.data.tabletop.layout import Footprint, turn
from edge_mm.data.tabletop.mesh import box, revolve, section, smooth, tube
from edge_mm.data.tabletop.shapes import build, mesh_name
from edge_mm.words import COLORS, KINDS


def face_normals(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a), (a + b + c) / 3


def signed_volume(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return float((np.cross(a, b) * c).sum() / 6)


def open_edges(mesh):
    """Edges that do not meet exactly one edge of the opposite direction."""
    _, merged = np.unique(np.round(mesh.vertices, 9), axis=0, return_inverse=True)
    faces = merged.reshape(-1)[mesh.faces]
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = {tuple(edge) for edge in edges.tolist()}
    return [edge for edge in forward if edge[::-1] not in forward]


@pytest.mark.parametrize("kind", KINDS)
def test_kind_builds_on_the_table_with_outward_normals(kind):
    for number in range(6):
        shape = build(mesh_name(kind, number))
        points = np.concatenate([part.mesh.vertices for part in shape.parts])
        assert abs(points[:, 2].min()) < 2e-3
        assert 0.02 < np.ptp(points, axis=0).max() < 0.4
        assert any(part.role == "body" for part in shape.parts)
        for part in shape.parts:
            normals, _ = face_normals(part.mesh)
            shading = part.mesh.normals[part.mesh.faces].mean(1)
            assert ((normals * shading).sum(1) >= 0).mean() > 0.98
            assert np.allclose(np.linalg.norm(part.mesh.normals, axis=1), 1, atol=1e-6)
            assert np.isfinite(part.mesh.vertices).all()


@pytest.mark.parametrize("kind", ["ball", "apple", "pear", "lemon", "banana", "spoon", "box"])
def test_solid_kinds_are_watertight_and_turned_outwards(kind):
    for number in range(3):
        body = next(part.mesh for part in build(mesh_name(kind, number)).parts)
        assert not open_edges(body)
        assert signed_volume(body) > 0


def test_open_vessel_is_closed_by_body_and_inside():
    parts = [part.mesh for part in build(mesh_name("bowl", 1)).parts if part.role != "liquid"]
    from edge_mm.data.tabletop.mesh import join

    assert not open_edges(join(*parts))


def test_volumes_match_the_formulas():
    angle = np.linspace(-np.pi / 2, np.pi / 2, 80)
    ball = revolve(np.stack([np.cos(angle), 1 + np.sin(angle)], 1), ring=section(120))
    assert signed_volume(ball) == pytest.approx(4 / 3 * np.pi, rel=0.01)
    assert signed_volume(box((1, 2, 3))) == pytest.approx(6)
    path = np.linspace([0, 0, 0], [2, 0, 0], 5)
    assert signed_volume(tube(path, 0.5, 0.5, ring=section(120))) == pytest.approx(
        np.pi / 2, rel=0.01
    )


def test_smooth_passes_through_its_ends():
    curve = smooth([(0, 0), (1, 2), (3, 1)], 20)
    assert curve.shape == (20, 2)
    assert np.allclose(curve[[0, -1]], [(0, 0), (3, 1)])


def test_same_name_same_mesh_and_other_number_other_mesh():
    build.cache_clear()
    first = build("bottle-0004").parts[0].mesh.vertices
    build.cache_clear()
    assert np.array_equal(first, build("bottle-0004").parts[0].mesh.vertices)
    other = build("bottle-0005").parts[0].mesh.vertices
    assert first.shape != other.shape or not np.allclose(first, other)


def test_colors_do_not_meet():
    """The nearest neighbours by hue stay apart: a sample never lies in another colour's region."""
    import colorsys

    from edge_mm.data.tabletop.kinds import REGIONS

    rng = np.random.default_rng(0)
    for name in COLORS:
        for _ in range(200):
            hue, saturation, value = colorsys.rgb_to_hsv(*sample_color(name, rng))
            for other in set(COLORS) - {name}:
                for hues, saturations, values in REGIONS[other]:
                    near = any(hues[0] <= hue * 360 + turn_ <= hues[1] for turn_ in (-360, 0, 360))
                    inside = (
                        near
                        and saturations[0] <= saturation <= saturations[1]
                        and values[0] <= value <= values[1]
                    )
                    assert not inside, (name, other)


def test_every_kind_has_colours():
    assert all(set(color_weights(kind)) <= set(COLORS) and color_weights(kind) for kind in KINDS)


def test_footprints():
    a = Footprint(np.array([0.0, 0.0]), np.array([0.1, 0.01]), 0.0)
    beside = Footprint(np.array([0.0, 0.05]), np.array([0.1, 0.01]), 0.0)
    across = Footprint(np.array([0.0, 0.05]), np.array([0.1, 0.01]), np.pi / 2)
    assert not a.overlaps(beside, 0.0)
    assert a.overlaps(across, 0.0)
    assert a.overlaps(beside, 0.04)


def test_turn_is_a_right_handed_rotation():
    assert np.allclose(turn(2, np.pi / 2) @ [1, 0, 0], [0, 1, 0])
    assert np.allclose(turn(0, np.pi / 2) @ [0, 1, 0], [0, 0, 1])
    assert np.allclose(turn(1, np.pi / 2) @ [0, 0, 1], [1, 0, 0])
