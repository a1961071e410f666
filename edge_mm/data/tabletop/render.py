"""MuJoCo draws a scene: one compiled model, several views (poses, camera, lights), exact labels.

Import this module only in a process that may own an OpenGL context: it sets MUJOCO_GL=osmesa.
"""

from __future__ import annotations

import os

os.environ["MUJOCO_GL"] = "osmesa"

from dataclasses import dataclass

import mujoco  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from edge_mm.data.tabletop.camera import Camera
from edge_mm.data.tabletop.layout import Pose, Thing
from edge_mm.data.tabletop.looks import Paint
from edge_mm.data.tabletop.mesh import Array, Mesh
from edge_mm.data.tabletop.stage import Light, Prop
from edge_mm.data.tabletop.textures import Image

BUFFER = 352  # pixels: the longest side that a view may have
HIDDEN_GROUP, SHOWN_GROUP, PROP_GROUP = 5, 1, 2
EXTENT = 1.2  # metres: scale of MuJoCo's clipping and shadows
MAX_LIGHTS = 3


@dataclass(frozen=True)
class View:
    """What changes between two pictures of one compiled scene."""

    poses: list[Pose | None]
    props: dict[str, tuple[Array, float]]  # prop name -> position, turn about z; absent: hidden
    camera: Camera
    ambient: float
    lights: list[Light]


@dataclass(frozen=True)
class Segmentation:
    """Per pixel: thing number + 1 (0: none), whether it has its thing's colour, depth in metres."""

    owner: NDArray[np.uint8]
    colored: NDArray[np.bool_]
    depth_m: NDArray[np.float32]


class Studio:
    """One off-screen OpenGL context for the life of the process."""

    def __init__(self) -> None:
        self._gl = mujoco.GLContext(BUFFER, BUFFER)
        self._gl.make_current()

    def close(self) -> None:
        """Free the context."""
        self._gl.free()

    def open(self, things: list[Thing], props: list[Prop]) -> Scene:
        """Compile things and props into a scene; close it before opening the next."""
        return Scene(things, props)


def _add_mesh(spec: mujoco.MjSpec, name: str, mesh: Mesh) -> None:
    asset = spec.add_mesh(name=name)
    asset.uservert = mesh.vertices.ravel()
    asset.usernormal = mesh.normals.ravel()
    asset.usertexcoord = mesh.uv.ravel()
    faces = mesh.faces.ravel()
    asset.userface = faces
    asset.userfacenormal = faces
    asset.userfacetexcoord = faces
    asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


def _add_material(spec: mujoco.MjSpec, name: str, paint: Paint, emission: float) -> None:
    material = spec.add_material(
        name=name,
        rgba=list(paint.rgba),
        specular=paint.specular,
        shininess=paint.shininess,
        emission=max(emission, paint.emission),
    )
    if paint.texture is not None:
        height, width = paint.texture.shape[:2]
        texture = spec.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=3
        )
        texture.data = paint.texture[::-1].tobytes()  # OpenGL starts at the bottom
        slots = material.textures
        slots[int(mujoco.mjtTextureRole.mjTEXROLE_RGB)] = name
        material.textures = slots


class Scene:
    """A compiled model with its GPU resources; a context manager."""

    def __init__(self, things: list[Thing], props: list[Prop]) -> None:
        spec = mujoco.MjSpec()
        spec.compiler.balanceinertia = True  # nothing moves: only the picture matters
        spec.visual.global_.offwidth = BUFFER
        spec.visual.global_.offheight = BUFFER
        spec.visual.quality.shadowsize = 1536
        spec.visual.quality.offsamples = 4
        spec.visual.map.shadowclip = 0.45
        spec.visual.map.znear = 0.02
        spec.visual.map.zfar = 12.0
        owners: list[int] = []
        colored: list[bool] = []

        def add(
            body_name: str, pieces: list[tuple[Mesh, Paint, float]], owner: int, shadow: bool = True
        ) -> None:
            body = spec.worldbody.add_body(name=body_name)
            for number, (mesh, paint, emission) in enumerate(pieces):
                name = f"{body_name}_{number}"
                _add_mesh(spec, name, mesh)
                _add_material(spec, name, paint, emission)
                body.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_MESH,
                    meshname=name,
                    material=name,
                    contype=0,
                    conaffinity=0,
                    castshadow=shadow,
                    group=SHOWN_GROUP if owner else PROP_GROUP,
                )
                owners.append(owner)

        for number, thing in enumerate(things):
            pieces = [
                (part.mesh, thing.look.paints[part.role], 0.0)
                for part in thing.shape.parts
                if part.role in thing.look.paints
            ]
            add(f"thing{number}", pieces, number + 1)
            roles = [part.role for part in thing.shape.parts if part.role in thing.look.paints]
            colored += [role in thing.look.colored for role in roles]
        for prop in props:
            add(f"prop_{prop.name}", [(prop.mesh, prop.paint, prop.emission)], 0, prop.shadow)
            colored.append(False)
        for _ in range(MAX_LIGHTS):
            spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)
        spec.worldbody.add_camera(name="camera")
        self.model = spec.compile()
        self.model.stat.extent = EXTENT
        self.model.stat.center = [0, 0, 0]
        self.data = mujoco.MjData(self.model)
        self._owner = np.array(owners, np.uint8)
        self._colored = np.array(colored, np.bool_)
        self._things, self._props = len(things), [prop.name for prop in props]
        self._scene = mujoco.MjvScene(self.model, maxgeom=self.model.ngeom + 8)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = 0
        self._context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.free()

    def arrange(self, view: View) -> None:
        """Move everything to where the view has it."""
        model = self.model
        for number, pose in enumerate(view.poses):
            body = model.body(f"thing{number}").id
            geoms = slice(
                model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body]
            )
            model.geom_group[geoms] = SHOWN_GROUP if pose is not None else HIDDEN_GROUP
            if pose is not None:
                model.body_pos[body] = pose.position
                mujoco.mju_mat2Quat(model.body_quat[body], pose.rotation.ravel())
        for name in self._props:
            body = model.body(f"prop_{name}").id
            model.geom_group[model.body_geomadr[body]] = (
                PROP_GROUP if name in view.props else HIDDEN_GROUP
            )
            if name in view.props:
                position, turn = view.props[name]
                model.body_pos[body] = position
                model.body_quat[body] = [np.cos(turn / 2), 0, 0, np.sin(turn / 2)]
        camera = view.camera
        axes = camera.rotation * [1, -1, -1]  # MuJoCo looks along -z with y up
        model.cam_pos[0] = camera.position
        mujoco.mju_mat2Quat(model.cam_quat[0], np.ascontiguousarray(axes).ravel())
        model.cam_fovy[0] = camera.fovy_deg
        model.vis.headlight.ambient[:] = view.ambient
        model.vis.headlight.diffuse[:] = 0
        model.vis.headlight.specular[:] = 0
        for number in range(MAX_LIGHTS):
            on = number < len(view.lights)
            model.light_active[number] = on
            if on:
                light = view.lights[number]
                model.light_pos[number] = -light.direction * 1.5
                model.light_dir[number] = light.direction
                model.light_diffuse[number] = np.clip(light.color, 0, 1)
                model.light_specular[number] = np.clip(light.color * 1.2, 0, 1)
                model.light_ambient[number] = 0
                model.light_castshadow[number] = light.shadow
        mujoco.mj_kinematics(model, self.data)
        mujoco.mj_comPos(model, self.data)
        mujoco.mj_camlight(model, self.data)

    def _draw(
        self, camera: Camera, groups: tuple[int, ...], flags: dict[int, bool]
    ) -> tuple[Image, NDArray[np.float32]]:
        self._option.geomgroup[:] = 0
        for group in groups:
            self._option.geomgroup[group] = 1
        mujoco.mjv_updateScene(
            self.model, self.data, self._option, None, self._camera,
            int(mujoco.mjtCatBit.mjCAT_ALL), self._scene)  # fmt: skip
        for flag, value in flags.items():
            self._scene.flags[flag] = value
        rect = mujoco.MjrRect(0, 0, camera.width, camera.height)
        mujoco.mjr_render(rect, self._scene, self._context)
        rgb = np.empty((camera.height, camera.width, 3), np.uint8)
        depth = np.empty((camera.height, camera.width), np.float32)
        want_depth = depth if flags.get(int(mujoco.mjtRndFlag.mjRND_SEGMENT)) else None
        mujoco.mjr_readPixels(rgb, want_depth, rect, self._context)
        return rgb[::-1], depth[::-1]

    def photograph(self, view: View) -> Image:
        """The colour picture [H,W,3] RGB."""
        flags = {
            int(mujoco.mjtRndFlag.mjRND_SEGMENT): False,
            int(mujoco.mjtRndFlag.mjRND_IDCOLOR): False,
            int(mujoco.mjtRndFlag.mjRND_SHADOW): True,
            int(mujoco.mjtRndFlag.mjRND_REFLECTION): False,
        }
        image, _ = self._draw(view.camera, (SHOWN_GROUP, PROP_GROUP), flags)
        return np.ascontiguousarray(image)

    def segment(self, view: View, alone: int | None = None) -> Segmentation:
        """Whose pixel it is; `alone` draws one thing only."""
        flags = {
            int(mujoco.mjtRndFlag.mjRND_SEGMENT): True,
            int(mujoco.mjtRndFlag.mjRND_IDCOLOR): True,
            int(mujoco.mjtRndFlag.mjRND_SHADOW): False,
        }
        if alone is None:
            coded, raw = self._draw(view.camera, (SHOWN_GROUP, PROP_GROUP), flags)
        else:
            body = self.model.body(f"thing{alone}").id
            start = self.model.body_geomadr[body]
            geoms = slice(start, start + self.model.body_geomnum[body])
            self.model.geom_group[geoms] = 0
            coded, raw = self._draw(view.camera, (0,), flags)
            self.model.geom_group[geoms] = SHOWN_GROUP
        code = coded[..., 0].astype(np.int32) + 256 * coded[..., 1].astype(np.int32)
        lookup, tinted = np.zeros(65536, np.uint8), np.zeros(65536, np.bool_)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                lookup[geom.segid + 1] = self._owner[geom.objid]
                tinted[geom.segid + 1] = self._colored[geom.objid]
        return Segmentation(lookup[code], tinted[code], self._metres(raw))

    def _metres(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        near = self.model.vis.map.znear * EXTENT
        far = self.model.vis.map.zfar * EXTENT
        scale = -0.5 * (-(far + near) / (far - near)) - 0.5
        offset = -0.5 * (-2 * far * near / (far - near))
        return np.asarray(offset / (raw.astype(np.float64) + scale), np.float32)
