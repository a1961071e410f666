"""Make the rendered part of this folder again: rendered_*.jpg, rendered.json, tabletop.mp4.

python examples/frames/render.py        (needs edge-mm[cpu,data] and libosmesa6)

The scenes are of the split `val`: no training run has seen their seeds. A later version of the
renderer draws other scenes from the same seeds; look at them, then mend questions.json.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_mm.data.tabletop.write import make_dataset

HERE = Path(__file__).resolve().parent
SEED, SCENES = 907, (3, 5, 12, 22, 30)
FILM_SEED, FILM_FRAMES, FILM_RATE, FILM_SWEEP_RAD = 3, 60, 12.0, 0.55


def main() -> None:
    """Pictures and labels first, then the film."""
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder), max(SCENES) + 2, SEED, "val", workers=1)
        scenes = json.loads((Path(folder) / "scenes.json").read_text())["scenes"]
        frames = []
        for number, index in enumerate(SCENES):
            name = f"rendered_{number:02d}.jpg"
            shutil.copyfile(Path(folder) / scenes[index]["image"], HERE / name)
            frames.append(labelled(name, scenes[index]))
    rows = ",\n".join("  " + json.dumps(frame) for frame in frames)
    generator = json.dumps({"name": "edge_mm.data.tabletop", "split": "val"})
    (HERE / "rendered.json").write_text(
        f'{{"schema": 1, "generator": {generator}, "scenes": [\n{rows}\n]}}\n'
    )
    film(HERE / "tabletop.mp4")


def labelled(name: str, scene: dict) -> dict:
    """The annotation of one rendered picture."""
    kept = ("id", "kind", "color", "box_xyxy")
    objects = [{key: item[key] for key in kept} for item in scene["objects"]]
    size = {"width": scene["width"], "height": scene["height"]}
    return {"id": Path(name).stem, "image": name, **size, "objects": objects}


def film(path: Path) -> None:
    """A camera that swings to and fro around a table."""
    from edge_mm.data.tabletop import stage
    from edge_mm.data.tabletop.camera import aim
    from edge_mm.data.tabletop.layout import choose_things, place
    from edge_mm.data.tabletop.render import Studio, View
    from edge_mm.data.tabletop.splits import Rules

    rng = np.random.default_rng(FILM_SEED)
    things = choose_things(Rules("val"), 5, rng)
    _, props = stage.table(rng, Rules("val"), 0.3)
    poses = place(things, list(range(5)), 0.3, rng)
    cloud = np.concatenate(
        [t.points @ p.rotation.T + p.position for t, p in zip(things, poses, strict=True) if p]
    )
    camera = replace(aim(cloud, 50, 35, 0.75, np.zeros(2), rng), width=320, height=240)
    ambient, lights = stage.lights(rng)
    furniture = {prop.name: (np.zeros(3), 0.0) for prop in props}
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*"mp4v"), FILM_RATE, (camera.width, camera.height)
    )
    studio = Studio()  # holds the OpenGL context
    with studio.open(things, props) as scene:
        for phase in np.linspace(0, 2 * np.pi, FILM_FRAMES, endpoint=False):
            angle = FILM_SWEEP_RAD * np.sin(phase)
            turn = np.array(
                [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
            )
            centre = cloud.mean(0) * (1, 1, 0)
            position = turn @ (camera.position - centre) + centre
            here = replace(camera, rotation=turn @ camera.rotation, position=position)
            view = View(poses, furniture, here, ambient, lights)
            scene.arrange(view)
            writer.write(cv2.cvtColor(scene.photograph(view), cv2.COLOR_RGB2BGR))
    writer.release()


if __name__ == "__main__":
    main()
