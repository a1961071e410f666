"""Records of any reader -> a data folder: `scenes.json`, and `questions.json` for given texts.

The pictures stay where they are: `scenes.json` names them by their full path. Outlines become
`segmentation/000000.png`. `questions.json` has the schema of the demo's, see `given`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edge_mm.data.folders import new_folder
from edge_mm.data.formats.record import Record, Skips
from edge_mm.data.scenes import SCHEMA, Scene, SceneFile, SceneObject
from edge_mm.demo.questions import Picture, Questions
from edge_mm_runtime.errors import ImageError, UsageError
from edge_mm_runtime.image import read_image


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    pictures: int
    objects: int
    questions: int


def convert(
    records: Iterable[Record], pictures: Path, out: Path, source: str, skips: Skips
) -> Converted:
    """Write the data folder `out` from records whose pictures lie in the folder `pictures`.

    Records of the same picture become one scene. A picture that is missing or unreadable is
    skipped and counted; UsageError when none is left, or when `out` exists. `source` is noted in
    `scenes.json`.
    """
    pictures = Path(pictures).resolve()
    if not pictures.is_dir():
        raise UsageError(f"no such folder of pictures: {pictures}")
    with new_folder(out) as folder:
        scenes: list[Scene] = []
        asked: list[Picture] = []
        for record in merged(records):
            path = pictures / record.image
            size = record.size if path.is_file() else None
            if size is None:
                try:
                    height, width = read_image(path).shape[:2]
                except ImageError:
                    reason = "cannot be read" if path.is_file() else "is missing"
                    skips.add(f"picture that {reason}", str(path))
                    continue
                size = (width, height)
            segmentation = None
            if record.outlines:
                segmentation = f"segmentation/{len(scenes):06d}.png"
                (folder / "segmentation").mkdir(exist_ok=True)
                cv2.imwrite(str(folder / segmentation), drawn(record, *size))
            scenes.append(
                Scene(record.image, str(path), *size, record.objects, segmentation=segmentation)
            )
            if record.questions:
                asked.append(Picture(str(path), list(record.questions)))
        if not scenes:
            why = "; ".join(skips.lines()) or "the source is empty"
            raise UsageError(f"{source} gives no picture of {pictures}: {why}")
        write(folder / "scenes.json", SceneFile(SCHEMA, tuple(scenes), {"source": source}))
        if asked:
            write(folder / "questions.json", Questions(asked))
    return Converted(
        len(scenes),
        sum(len(scene.objects) for scene in scenes),
        sum(len(picture.questions) for picture in asked),
    )


def merged(records: Iterable[Record]) -> list[Record]:
    """One record a picture, in the order of their first; only questions are given in parts."""
    parts: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        parts[record.image].append(record)
    return [
        msgspec.structs.replace(
            first, questions=tuple(q for r in (first, *rest) for q in r.questions)
        )
        for first, *rest in parts.values()
    ]


def drawn(record: Record, width: int, height: int) -> np.ndarray:
    """Object ids, uint8 [H,W]: outlines, or the box where there is none; small ones on top."""
    ids = np.zeros((height, width), np.uint8)
    for item in sorted(record.objects, key=_area, reverse=True):
        outline = record.outlines.get(item.id)
        if outline is None:
            x1, y1, x2, y2 = (round(value) for value in item.box_xyxy)
            ids[y1:y2, x1:x2] = item.id
            continue
        # Corners count from the corner of a pixel, fillPoly's points from its centre.
        points = [np.rint(np.reshape(polygon, (-1, 2)) - 0.5) for polygon in outline]
        cv2.fillPoly(ids, [polygon.astype(np.int32) for polygon in points], item.id)
    return ids


def _area(item: SceneObject) -> float:
    x1, y1, x2, y2 = item.box_xyxy
    return (x2 - x1) * (y2 - y1)


def write(path: Path, value: msgspec.Struct) -> None:
    path.write_bytes(msgspec.json.encode(value) + b"\n")
