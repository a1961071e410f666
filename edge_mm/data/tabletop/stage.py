"""The furniture of a scene: table, floor, room, cloth, and lights. Meshes and textures only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mm.data.tabletop import textures
from edge_mm.data.tabletop.looks import Paint
from edge_mm.data.tabletop.mesh import Array, Mesh, box, grid, join, quad, section, tube
from edge_mm.data.tabletop.splits import Rules

FLOOR_Z = -0.75


@dataclass(frozen=True)
class Prop:
    """Something that is no object: mesh, paint, how much it shines by itself, casts shadows."""

    name: str
    mesh: Mesh
    paint: Paint
    emission: float = 0.0
    shadow: bool = True


@dataclass(frozen=True)
class Light:
    """A directional light: the way it shines, its colour and its share."""

    direction: Array
    color: Array
    shadow: bool


def table(
    rng: np.random.Generator, rules: Rules, spread: float, colors: set[str | None]
) -> tuple[str, list[Prop]]:
    """The surface's family name, and the props of table, cloth and floor.

    `colors` are the objects' colours: nobody can see a black thing on a black table.
    """
    weights = rules.surfaces()
    if "black" in colors:
        weights.pop("dark", None)
    family = str(
        rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values()))
    )
    image = textures.SURFACES[family](rng)
    edge = spread * rng.uniform(1.3, 2.2) + 0.1
    half = (edge * rng.uniform(1, 1.5), edge)
    whole = rng.random() < 0.35
    if whole:
        half = (2.5, 2.5)
    scale = rng.uniform(0.35, 1.1)
    shine = (rng.uniform(0.0, 0.4), rng.uniform(0.2, 0.8)) if rng.random() < 0.5 else (0.0, 0.1)
    paint = Paint((1, 1, 1, 1), *shine, image)
    is_round = not whole and rng.random() < 0.25
    top = _round_top(half[1] * 1.3) if is_round else _flat(half, 24)
    turn = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(turn), np.sin(turn)
    uv = top.vertices[:, :2] @ np.array([[c, -s], [s, c]]) / scale + rng.random(2)
    top = Mesh(top.vertices, top.normals, uv, top.faces)
    props = [Prop("table", top, paint)]
    if not whole:
        floor_names = [name for name in weights if name not in ("checks",)]
        floor = textures.SURFACES[floor_names[int(rng.integers(len(floor_names)))]](rng)
        ground = _flat((5.0, 5.0), 8).moved((0, 0, FLOOR_Z))
        ground = Mesh(ground.vertices, ground.normals, ground.vertices[:, :2] / 1.2, ground.faces)
        props.append(Prop("floor", ground, Paint((1, 1, 1, 1), 0.0, 0.1, floor), 0.1, False))
    if rng.random() < 0.12:
        cloth_size = (spread * rng.uniform(0.5, 1.3), spread * rng.uniform(0.5, 1.1))
        cloth = _flat(cloth_size, 12).moved((0, 0, 0.0012))
        uv = cloth.vertices[:, :2] / rng.uniform(0.2, 0.5)
        cloths = [name for name in weights if name in ("stripes", "weave", "plain", "checks")]
        family_two = str(rng.choice(cloths or ["tiles"]))
        mat = Paint((1, 1, 1, 1), 0.0, 0.1, textures.SURFACES[family_two](rng))
        props.append(Prop("cloth", Mesh(cloth.vertices, cloth.normals, uv, cloth.faces), mat))
    return family, props


def _flat(half: tuple[float, float], steps: int) -> Mesh:
    x, y = half
    corners = np.array([[-x, -y, 0.0], [x, -y, 0], [x, y, 0], [-x, y, 0]])
    top = quad(corners, np.zeros((4, 2)), steps)
    thick = 0.03
    rim = box((2 * x, 2 * y, thick), top_band=True).moved((0, 0, -thick))
    return join(top, rim)


def _round_top(radius: float) -> Mesh:
    r = np.linspace(1, 0, 14)
    ring = section(48)
    points = np.zeros((len(r), len(ring), 3))
    points[..., :2] = r[:, None, None] * ring[None] * radius
    return grid(points, np.zeros((*points.shape[:2], 2)))


def walls(rng: np.random.Generator) -> Prop:
    """Four walls round the table, seen from inside; the renderer turns them with the camera."""
    image = textures.room(rng)
    far = rng.uniform(1.4, 3.0)
    corners = [
        np.array([np.cos(a), np.sin(a)]) * far * 1.414 for a in np.pi / 4 + np.arange(4) * np.pi / 2
    ]
    pieces = []
    for k in range(4):
        a, b = corners[k], corners[(k + 1) % 4]
        panel = np.array([[*b, FLOOR_Z], [*a, FLOOR_Z], [*a, 2.2], [*b, 2.2]])
        pieces.append(quad(panel, np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]]), 4))
    return Prop(
        "walls", join(*pieces), Paint((1, 1, 1, 1), 0.0, 0.1, image), rng.uniform(0.25, 0.6), False
    )


def backdrop(rng: np.random.Generator) -> Prop:
    """A wall or cloth close behind the objects, on the -x side, standing on the table."""
    image = textures.room(rng) if rng.random() < 0.5 else textures.stripes(rng)
    if rng.random() < 0.35:
        image = textures.concrete(rng) if rng.random() < 0.5 else textures.plain(rng)
    panel = np.array([[0, -2.5, 0], [0, 2.5, 0], [0, 2.5, 2.0], [0, -2.5, 2.0]])
    size = rng.uniform(0.5, 2.0)
    uv = np.array([[0, 0], [5 / size, 0], [5 / size, 2 / size], [0, 2 / size]])
    return Prop(
        "backdrop",
        quad(panel, uv, 12),
        Paint((1, 1, 1, 1), 0.0, 0.1, image),
        rng.uniform(0.1, 0.4),
        False,
    )


def gripper(rng: np.random.Generator) -> Prop:
    """Two fingers and a palm that point down: a robot's hand in the picture."""
    width, thick = rng.uniform(0.03, 0.06), rng.uniform(0.008, 0.015)
    length = rng.uniform(0.06, 0.1)
    finger = box((thick, thick * 1.6, length))
    arm_path = np.linspace([0, 0, length + 0.03], [0, 0, length + 0.5], 6)
    pieces = [
        finger.moved((-width, 0, 0)), finger.moved((width, 0, 0)),
        box((2.6 * width, 0.04, 0.04)).moved((0, 0, length)),
        tube(arm_path, 0.03, 0.03, up=(1, 0, 0)),
    ]  # fmt: skip
    shade = rng.uniform(0.05, 0.6)
    return Prop("gripper", join(*pieces), Paint((shade, shade, shade, 1), 0.4, 0.5))


def lights(rng: np.random.Generator) -> tuple[float, list[Light]]:
    """Ambient share and one to three lights; white surfaces end between 1.0 and 1.3."""
    count = int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.3]))
    ambient = rng.uniform(0.36, 0.6)
    shares = rng.uniform(0.3, 1.0, count)
    shares[0] = 1.2
    total = rng.uniform(1.0, 1.3) - ambient
    found = []
    for k in range(count):
        height, angle = np.radians(rng.uniform(28, 85)), rng.uniform(0, 2 * np.pi)
        direction = -np.array(
            [np.cos(height) * np.cos(angle), np.cos(height) * np.sin(angle), np.sin(height)]
        )
        warm = rng.normal(0, 0.05)
        color = np.array([1 + warm, 1.0, 1 - warm]) * total * shares[k] / shares.sum()
        found.append(
            Light(direction, color / max(np.sin(height), 0.7), k == 0 and rng.random() < 0.85)
        )
    return ambient, found
