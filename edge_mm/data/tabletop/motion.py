"""Rendered sequences at camera rate, with the true box of everything in every frame.

    frames/000.jpg ...   sequence.json: frames per second, things, and the truth of each frame

What moves where is motion_script.py. A sequence depends on (seed, frames, size) only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_mm.data.tabletop.write import check_renderer
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import Frame, read_image

if TYPE_CHECKING:
    from edge_mm.data.tabletop.layout import Thing
    from edge_mm.data.tabletop.render import Scene, View
    from edge_mm.data.tabletop.splits import Rules
    from edge_mm.data.tabletop.stage import Prop

VERSION = 1
FRAMES_PER_S = 30.0
MIN_PIXELS, MIN_VISIBLE = 40, 0.15  # below, a thing is not in the picture: as in annotate.py
LONGEST = 352  # pixels: render.BUFFER, known here without MuJoCo
JPEG_QUALITY = 92
SPLIT = "val"


@dataclass(frozen=True)
class Sight:
    """A thing in one frame: the box of its visible pixels, and what share of it is visible."""

    box_xyxy: tuple[float, float, float, float]
    visible: float


@dataclass(frozen=True)
class MotionSequence:
    """Frames in order, BGR; the truth of each, by the thing's place in `labels`.

    labels  "red cup": no two are the same, and the first two are of one kind
    """

    frames: list[Frame]
    truth: list[dict[int, Sight]]
    labels: tuple[str, ...]
    frames_per_s: float = FRAMES_PER_S


def make_sequence(
    seed: int, frames: int = 90, size: tuple[int, int] = (320, 240)
) -> MotionSequence:
    """Render a sequence; about 0.1 s a frame.

    In a process that has not imported MuJoCo for another OpenGL than OSMesa (see render.py).
    Raises UsageError for a size or number out of range, RendererError without MuJoCo or OSMesa.
    """
    if frames < 2 or min(size) < 16 or max(size) > LONGEST:
        raise UsageError(
            f"{frames} frames of {size[0]} x {size[1]}: give at least 2 frames, and sides from 16 "
            f"to {LONGEST} pixels"
        )
    check_renderer()
    from edge_mm.data.tabletop import motion_script as script
    from edge_mm.data.tabletop import stage
    from edge_mm.data.tabletop.render import Studio, View
    from edge_mm.data.tabletop.splits import Rules, scene_seed

    rng = np.random.default_rng([17, scene_seed(seed, SPLIT, 0)])
    rules = Rules(SPLIT)
    planned = script.plan(rules, size, rng)
    props = _whole_table(rules, {thing.color for thing in planned.things}, rng)
    ambient, lights = stage.lights(rng)
    here = {prop.name: (np.zeros(3), planned.azimuth) for prop in props}
    look = _Look(rng)
    pictures: list[Frame] = []
    truth: list[dict[int, Sight]] = []
    studio = Studio()
    try:
        with studio.open(planned.things, props) as scene:
            for number in range(frames):
                share = number / (frames - 1)
                view = View(
                    list(script.poses(planned, share)),
                    here,
                    script.camera(planned, size, share),
                    ambient,
                    lights,
                )
                scene.arrange(view)
                pictures.append(look.develop(scene.photograph(view)))
                truth.append(_sights(scene, view, planned.things))
    finally:
        studio.close()
    labels = tuple(f"{thing.color} {thing.kind}" for thing in planned.things)
    return MotionSequence(pictures, truth, labels)


def write_sequence(sequence: MotionSequence, folder: Path) -> None:
    """Pictures first, then sequence.json: a folder that has it is complete."""
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(sequence.frames):
        done, data = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise UsageError(f"frame {number} of {folder} cannot be written as JPEG")
        (folder / "frames" / f"{number:03d}.jpg").write_bytes(data.tobytes())
    truth = [
        {str(thing): [*sight.box_xyxy, sight.visible] for thing, sight in seen.items()}
        for seen in sequence.truth
    ]
    text = {
        "version": VERSION,
        "frames_per_s": sequence.frames_per_s,
        "labels": sequence.labels,
        "truth": truth,
    }
    (folder / "sequence.json").write_text(json.dumps(text))


def read_sequence(folder: Path) -> MotionSequence:
    """What write_sequence wrote; UsageError where it is missing or of another version."""
    try:
        text = json.loads((folder / "sequence.json").read_text())
    except FileNotFoundError:
        raise UsageError(f"no sequence in {folder}: it has no sequence.json") from None
    if text["version"] != VERSION:
        raise UsageError(
            f"{folder} is a sequence of version {text['version']}, this reads {VERSION}: "
            "delete the folder and render it again"
        )
    truth = [
        {
            int(thing): Sight((x1, y1, x2, y2), visible)
            for thing, (x1, y1, x2, y2, visible) in seen.items()
        }
        for seen in text["truth"]
    ]
    frames = [read_image(folder / "frames" / f"{k:03d}.jpg") for k in range(len(truth))]
    return MotionSequence(frames, truth, tuple(text["labels"]), text["frames_per_s"])


class _Look:
    """A camera whose exposure and white balance stay, while its noise is new in each frame."""

    def __init__(self, rng: np.random.Generator) -> None:
        warm = rng.normal(0, 0.03)
        self._gain = np.array([1 - warm, 1.0, 1 + warm]) * rng.uniform(0.9, 1.1)  # B, G, R
        self._noise = float(rng.uniform(1.0, 4.0))  # standard deviation, of 255
        self._rng = rng

    def develop(self, image: NDArray[np.uint8]) -> Frame:
        """RGB as rendered -> BGR as filmed."""
        noise = self._rng.standard_normal(image.shape, dtype=np.float32) * self._noise
        filmed = image[..., ::-1] * self._gain + noise
        return np.asarray(np.clip(filmed + 0.5, 0, 255), np.uint8)


def _whole_table(rules: Rules, colors: set[str | None], rng: np.random.Generator) -> list[Prop]:
    """A table without an edge in sight (a thing that leaves must not hang in the air), and walls.

    colors: of the things.
    """
    from edge_mm.data.tabletop import stage

    while True:
        _, props = stage.table(rng, rules, 0.3, colors)
        if float(np.ptp(props[0].mesh.vertices[:, 0])) > 4.0:
            # Beyond the shadow map's reach such a large table would be speckled by its own shadow.
            return [replace(props[0], shadow=False), *props[1:], stage.walls(rng)]


def _sights(scene: Scene, view: View, things: list[Thing]) -> dict[int, Sight]:
    """The truth of an arranged view."""
    from edge_mm.data.tabletop.annotate import tight_box

    owner = scene.segment(view).owner
    found = {}
    for number, (thing, pose) in enumerate(zip(things, view.poses, strict=True)):
        mask = owner == number + 1
        pixels = int(mask.sum())
        if pixels < MIN_PIXELS:
            continue
        alone = int((scene.segment(view, number).owner > 0).sum())
        xy = view.camera.project(thing.points @ pose.rotation.T + pose.position)
        inside = float(((xy >= 0) & (xy < [view.camera.width, view.camera.height])).all(1).mean())
        visible = pixels / max(alone, pixels) * inside
        if visible >= MIN_VISIBLE:
            x1, y1, x2, y2 = tight_box(mask)
            found[number] = Sight((x1, y1, x2, y2), round(visible, 3))
    return found
