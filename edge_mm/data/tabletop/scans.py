"""A scan's files as a Shape and a Look: Wavefront .obj with its texture, in metres, z up.

Format: http://paulbourke.net/dataformats/obj/ (v, vt, vn and faces; one material a file).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from edge_mm.data.tabletop.kinds import sample_color
from edge_mm.data.tabletop.looks import Look, Paint
from edge_mm.data.tabletop.mesh import Array, Mesh
from edge_mm.data.tabletop.packs import Scan
from edge_mm.data.tabletop.textures import Image
from edge_mm.data.tabletop.vessels import Part, Shape
from edge_mm_runtime.errors import ImageError, UsageError

TEXTURE_PX = 1024  # larger ones (4096) show no more at the size of our pictures
HOLLOW_STEPS = 16
Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def read_obj(path: Path) -> Mesh:
    """The triangles of a .obj file in its own units and axes; polygons are cut into fans.

    Raises UsageError where a face lacks texture coordinates or normals, or points to nothing.
    """
    rows: dict[str, list[list[str]]] = {"v": [], "vt": [], "vn": [], "f": []}
    for line in path.read_text(errors="replace").splitlines():
        key, *values = line.split() or [""]
        if key in rows:
            rows[key].append(values)
    try:
        faces = [[corner.split("/") for corner in row] for row in rows["f"]]
        corners = np.array(
            [[face[0], face[k], face[k + 1]] for face in faces for k in range(1, len(face) - 1)],
            np.int64,
        )
        vertices = np.array([row[:3] for row in rows["v"]], float).reshape(-1, 3)
        uv = np.array([row[:2] for row in rows["vt"]], float).reshape(-1, 2)
        normals = np.array([row[:3] for row in rows["vn"]], float).reshape(-1, 3)
    except ValueError as error:
        raise UsageError(
            f"{path} is not a mesh with v/vt/vn faces: install its pack again"
        ) from error
    counts = [len(vertices), len(uv), len(normals)]
    whole = corners.ndim == 3 and corners.shape[2] == 3  # faces x corners x v/vt/vn
    if not whole or corners.min() < 1 or (corners.max((0, 1)) > counts).any():
        raise UsageError(
            f"{path} has faces without v/vt/vn or that point to nothing: install its pack again"
        )
    used, inverse = np.unique(corners.reshape(-1, 3) - 1, axis=0, return_inverse=True)
    triangles = inverse.reshape(-1, 3)
    points = vertices[used[:, 0]]
    a, b, c = (points[triangles[:, k]] for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    triangles = triangles[area > area.max() * 1e-9]  # slivers face nowhere
    shading = normals[used[:, 2]]
    shading = shading / np.maximum(np.linalg.norm(shading, axis=1, keepdims=True), 1e-9)
    return Mesh(points, shading, uv[used[:, 1]], triangles)


def read_texture(path: Path) -> Image:
    """A texture as RGB, at most TEXTURE_PX a side. ImageError where it cannot be read."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{path} cannot be read as a picture: install its pack again")
    scale = TEXTURE_PX / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1])


def fill_margin(image: Image, mesh: Mesh) -> Image:
    """The texture with every pixel that no triangle uses coloured like the nearest used one.

    Scans pack their skin as islands on black, which would bleed into the seams from a distance.
    """
    if mesh.uv.min() < 0 or mesh.uv.max() > 1:  # a repeating texture has no margin
        return image
    height, width = image.shape[:2]
    used = np.zeros((height, width), np.uint8)
    corners = np.rint(mesh.uv * [width - 1, 1 - height] + [0, height - 1]).astype(np.int32)
    for triangle in corners[mesh.faces]:
        cv2.fillConvexPoly(used, triangle, 1)
    # border pixels are part black already
    used = np.asarray(cv2.erode(used, np.ones((3, 3), np.uint8)), np.uint8)
    if not used.any():
        return image
    _, nearest = cv2.distanceTransformWithLabels(
        1 - used, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colors = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colors[nearest[used > 0]] = image[used > 0]
    filled: Image = colors[nearest]
    return filled


@lru_cache(maxsize=64)
def scan_textures(scan: Scan) -> tuple[Image | None, ...]:
    """One texture a piece, None where it is painted."""
    parts = scan_shape(scan).parts
    return tuple(
        fill_margin(read_texture(path), part.mesh) if path is not None else None
        for (_, _, path), part in zip(scan.pieces, parts, strict=True)
    )


@lru_cache(maxsize=64)
def scan_shape(scan: Scan) -> Shape:
    """The scan standing on z = 0, centred on the z axis; bowls and plates get their hollow."""
    turn = Y_UP if scan.row.up == "y" else np.eye(3)
    meshes = []
    for _, path, _ in scan.pieces:
        raw = read_obj(path)
        sized = Mesh(raw.vertices * scan.row.metres, raw.normals, raw.uv, raw.faces)
        meshes.append(sized.moved((0, 0, 0), turn))
    points = np.concatenate([mesh.vertices for mesh in meshes])
    low, high = points.min(0), points.max(0)
    foot = -np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
    parts = tuple(
        Part(piece.role, mesh.moved(foot))
        for (piece, _, _), mesh in zip(scan.pieces, meshes, strict=True)
    )
    hollow = inner_profile(parts[0].mesh) if scan.row.kind in ("bowl", "plate") else None
    return Shape(parts, scan.row.rests, hollow, "scan")


def inner_profile(mesh: Mesh) -> Array:
    """(radius, height) of what lies open to above, from the middle to the rim, never falling."""
    up = mesh.vertices[mesh.normals[:, 2] > 0.2]
    radius = np.hypot(up[:, 0], up[:, 1])
    edges = np.linspace(0, radius.max(), HOLLOW_STEPS + 1)
    rings = [(radius >= a) & (radius <= b) for a, b in pairwise(edges)]
    known = np.array([ring.any() for ring in rings])  # the floor may be one large triangle
    heights = [up[ring, 2].max() for ring in rings if ring.any()]
    return np.stack([edges[1:][known], np.maximum.accumulate(heights)], 1)


def scan_look(scan: Scan, rng: np.random.Generator) -> Look:
    """The scan's own textures, a little lighter or darker, matte or glossy by chance."""
    material = "glossy" if scan.row.kind in ("mug", "bowl", "plate", "bottle") else "matte"
    shine = (0.08, 0.2) if material == "matte" else (rng.uniform(0.2, 0.6), rng.uniform(0.4, 0.9))
    light = float(rng.uniform(0.9, 1.0))
    paints: dict[str, Paint] = {}
    for (piece, _, _), texture in zip(scan.pieces, scan_textures(scan), strict=True):
        if texture is not None:
            paints[piece.role] = Paint((light, light, light, 1.0), *shine, texture)
        elif scan.row.color is not None:
            paints[piece.role] = Paint((*sample_color(scan.row.color, rng), 1.0), *shine)
    return Look(material, paints)
