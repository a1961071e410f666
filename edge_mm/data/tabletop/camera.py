"""Cameras that see the chosen objects: pinhole, OpenCV axes (x right, y down, z forward)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_mm.data.tabletop.mesh import Array

SIZES = ((320, 240), (240, 320), (240, 240), (256, 256), (341, 192), (192, 341), (336, 252))
SIZE_SHARE = (0.28, 0.2, 0.14, 0.12, 0.09, 0.07, 0.1)


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: size and focal length in pixels, pose as camera-to-world."""

    width: int
    height: int
    focal: float
    rotation: Array  # columns: right, down, forward in world axes
    position: Array

    @property
    def fovy_deg(self) -> float:
        """Vertical field of view."""
        return float(np.degrees(2 * np.arctan(self.height / 2 / self.focal)))

    def to_camera(self, points: Array) -> Array:
        """World points [n,3] in camera axes, metres."""
        return (points - self.position) @ self.rotation

    def project(self, points: Array) -> Array:
        """World points [n,3] to pixels [n,2]; points behind the camera land far away."""
        local = self.to_camera(points)
        depth = np.maximum(local[:, 2:], 1e-3)
        return local[:, :2] / depth * self.focal + [self.width / 2, self.height / 2]

    def world_from_camera(self) -> list[list[float]]:
        """4x4 pose as nested lists."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, self.position
        return [[round(float(x), 6) for x in row] for row in pose]


def aim(
    points: Array,
    fov_deg: float,
    elevation_deg: float,
    coverage: float,
    shift: Array,
    rng: np.random.Generator,
) -> Camera:
    """A camera at this elevation, so far away that the points span `coverage` of the frame."""
    width, height = SIZES[int(rng.choice(len(SIZES), p=SIZE_SHARE))]
    focal = max(width, height) / 2 / np.tan(np.radians(fov_deg) / 2)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.radians(elevation_deg)
    back = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    up = np.cross(back, right)
    roll = np.radians(rng.uniform(-8, 8))
    right, up = right * np.cos(roll) + up * np.sin(roll), up * np.cos(roll) - right * np.sin(roll)
    rotation = np.stack([right, -up, -back], 1)
    target = (points.max(0) + points.min(0)) / 2
    near, far = 0.05, 5.0
    for _ in range(14):
        middle = (near * far) ** 0.5
        camera = Camera(width, height, focal, rotation, target + back * middle)
        local = camera.to_camera(points)
        if local[:, 2].min() < 0.06:
            near = middle
            continue
        offset = np.abs(camera.project(points) - [width / 2, height / 2])
        if float((offset / [width / 2, height / 2]).max()) > coverage:
            near = middle
        else:
            far = middle
    distance = max(far, 0.16)
    center = target + back * distance
    reach = distance / focal / 2  # metres per half pixel at the target
    center = center + right * shift[0] * reach * width + up * shift[1] * reach * height
    center[2] = max(center[2], 0.05)
    return Camera(width, height, focal, rotation, center)
