"""COCO detection JSON: images, annotations, categories (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edge_mm.data.formats.record import Outline, Record, Skips, decode, decode_each
from edge_mm.data.scenes import SceneObject
from edge_mm.words import COLORS, SYNONYMS
from edge_mm_runtime.errors import UsageError

MOST_OBJECTS = 255  # a segmentation picture has a byte a pixel, and 0 is the background
MIN_SIDE = 1.0  # pixels

_COLORS = {said: color for color in COLORS for said in (color, *SYNONYMS.get(color, ()))}


class _Image(msgspec.Struct, frozen=True):
    id: int | str
    file_name: str
    width: int
    height: int


class _Category(msgspec.Struct, frozen=True):
    id: int
    name: str


class _File(msgspec.Struct, frozen=True):
    images: list[_Image]
    annotations: list[msgspec.Raw]
    categories: list[_Category]


class _Annotation(msgspec.Struct, frozen=True):
    image_id: int | str
    category_id: int
    bbox: tuple[float, float, float, float]  # x y width height
    id: int | str | None = None
    iscrowd: int = 0
    segmentation: Any = None


class Picture(NamedTuple):
    """A record, and the ids of the annotations that its objects come from, in their order."""

    record: Record
    annotations: tuple[int | str | None, ...]


def read_coco(path: Path, skips: Skips) -> Iterator[Record]:
    """One record a picture; UsageError when the file is not COCO, see `read_pictures`."""
    for picture in read_pictures(path, skips):
        yield picture.record


def read_pictures(path: Path, skips: Skips) -> Iterator[Picture]:
    """Pictures with their objects. An object's kind is the category's name in lower case; a colour
    word before it ("red mug") becomes the object's colour.

    Crowds, boxes without area in the picture and unreadable annotations are skipped and counted.
    UsageError when the file is not COCO, or when pictures or category names cannot be used.
    """
    found = decode(path, _File, "COCO detection JSON (images, annotations, categories)")
    images = {image.id: image for image in found.images}
    if len({image.file_name for image in found.images}) < len(found.images):
        raise UsageError(f"{path} lists a file_name twice: merge its annotations under one image")
    for of_what, listed in (("image", found.images), ("category", found.categories)):
        if len({item.id for item in listed}) < len(listed):
            raise UsageError(
                f"{path} lists an id of {of_what} twice, and annotations name it: give each its own"
            )
    for image in found.images:
        if min(image.width, image.height) < 1:
            raise UsageError(f"{path}: {image.file_name} has no size: give its width and height")
    names = {category.id: colour_and_kind(category.name, path) for category in found.categories}
    by_image: dict[int | str, list[_Annotation]] = defaultdict(list)
    for index, annotation in decode_each(found.annotations, _Annotation, "annotation", skips):
        if annotation.image_id not in images:
            skips.add("annotation of a picture that is not listed", f"number {index}")
        elif annotation.category_id not in names:
            skips.add("annotation of a category that is not listed", f"number {index}")
        elif annotation.iscrowd:
            skips.add("annotation of a crowd, not of one object", f"number {index}")
        else:
            by_image[annotation.image_id].append(annotation)
    for image in found.images:
        yield _picture(image, by_image[image.id], names, skips)


def colour_and_kind(name: str, path: Path) -> tuple[str | None, str]:
    """A category's name -> colour and kind, e.g. "Red_Mug" -> red, mug."""
    words = name.lower().replace("_", " ").split()
    if not words or "<" in name or ";" in name:
        raise UsageError(f"{path}: rename category {name!r}: a kind is text without '<' and ';'")
    if len(words) > 1 and words[0] in _COLORS:
        return _COLORS[words[0]], " ".join(words[1:])
    return None, " ".join(words)


def _picture(
    image: _Image,
    annotations: list[_Annotation],
    names: dict[int, tuple[str | None, str]],
    skips: Skips,
) -> Picture:
    objects: list[SceneObject] = []
    outlines: dict[int, Outline] = {}
    sources: list[int | str | None] = []
    for annotation in annotations:
        box = _clipped(annotation.bbox, image.width, image.height)
        if min(box[2] - box[0], box[3] - box[1]) < MIN_SIDE:
            skips.add("box without area in its picture", f"{image.file_name}: {annotation.bbox}")
            continue
        if len(objects) == MOST_OBJECTS:
            skips.add(f"object beyond the {MOST_OBJECTS} of a picture", image.file_name)
            continue
        color, kind = names[annotation.category_id]
        number = len(objects) + 1
        objects.append(SceneObject(number, kind, color, box))
        sources.append(annotation.id)
        if outline := _outline(annotation.segmentation):
            outlines[number] = outline
        elif annotation.segmentation:
            skips.add("outline that is no polygon: the box stands for it", image.file_name)
    size = (image.width, image.height)
    return Picture(Record(image.file_name, size, tuple(objects), outlines), tuple(sources))


def _clipped(
    bbox: tuple[float, float, float, float], width: int, height: int
) -> tuple[float, float, float, float]:
    x, y, w, h = bbox
    return max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))


def _outline(segmentation: Any) -> Outline:
    """The polygons of a `segmentation`; [] for run-length codes and what is damaged."""
    try:
        polygons = msgspec.convert(segmentation, Outline)
    except msgspec.ValidationError:
        return []
    whole = all(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in polygons)
    return polygons if whole else []
