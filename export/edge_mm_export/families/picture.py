"""How a transformers image processor puts a picture, as an `ImageTransform`.

Read from `preprocessor_config.json`, or `image_processor` in `processor_config.json`. Where the
processor would cut parts of a frame off, or make several tiles of it, the whole frame is put
instead: a robot is asked about all that its camera sees. What was chosen so is said in a note.

PIL, with which transformers resizes, takes a mean over an area where it shrinks, whatever its
filter is called; so does `area`. On four frames of 640 pixels shrunk to 224, 336 and 448 the mean
difference to PIL's bicubic is 0.5 of 255 levels (OpenCV's own cubic: 0.6 to 2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.families.files import read_json
from edge_mm_runtime.image import ImageTransform

_NEAREST = 0  # PIL's resampling filter that no mean stands for
_TILES = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")
_MADE_OF_TILES = ("idefics3", "smolvlm", "internvl")  # these make tiles unless they are told not to

Colour = tuple[float, float, float]


class Picture(NamedTuple):
    """A transform, and in sentences where it is not the processor's."""

    transform: ImageTransform
    notes: tuple[str, ...]


def read_picture(
    folder: Path, family: str, width: int, height: int, *, any_size: bool = False
) -> Picture:
    """The transform to `width` x `height` pixels, which the tower of a family takes.

    any_size: the tower takes others too, and the size was chosen. Raises ExportError for a folder
    without a processor, UnsupportedError for what no transform of ours can do.
    """
    path, settings = _settings(folder)
    if settings.get("do_resize") is False or settings.get("resample") == _NEAREST:
        raise UnsupportedError(f"{path}: pictures that are not resized smoothly are not supported")
    mean, std = _normalisation(path, settings)
    kind, notes = _placement(path, settings, family, (width, height), any_size)
    if family in _MADE_OF_TILES or any(settings.get(name) for name in _TILES):
        notes.append("one tile: the whole frame; the processor may add tiles of its parts")
    grey = round(255 * sum(mean) / 3)  # nothing, once it is normalised
    transform = ImageTransform(
        kind, width, height, "area", mean, std, min(255, max(0, grey)) if kind != "squash" else 0
    )
    return Picture(transform, tuple(notes))


def _settings(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "preprocessor_config.json"
    settings = read_json(path)
    if not settings:
        path = folder / "processor_config.json"
        settings = read_json(path).get("image_processor") or {}
    if not settings:
        raise ExportError(
            f"{folder} has no preprocessor_config.json: it says how a picture is put; download it "
            "beside the weights"
        )
    return path, settings


def _normalisation(path: Path, settings: dict[str, Any]) -> tuple[Colour, Colour]:
    """Mean and std of values scaled to 0..1, whatever they are rescaled by."""
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not settings.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    else:
        try:
            mean, std = (_colour(settings[name]) for name in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError):
            raise ExportError(f"{path} has no image_mean and image_std of three colours") from None
    scale = 255 * factor
    return _colour([m / scale for m in mean]), _colour([s / scale for s in std])


def _colour(values: Any) -> Colour:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _placement(
    path: Path,
    settings: dict[str, Any],
    family: str,
    asked: tuple[int, int],
    any_size: bool,
) -> tuple[Literal["squash", "letterbox"], list[str]]:
    """How a frame is put into the size of the tower, and what is otherwise than the processor's."""
    width, height = asked
    if any_size:
        return "letterbox", [
            f"every frame becomes {width} x {height} pixels, its aspect ratio kept by grey bars; "
            "the processor keeps it by a size of its own for each frame"
        ]
    size = settings.get("size")
    if isinstance(size, int):
        size = {"shortest_edge": size}
    size = size or {}
    if settings.get("do_center_crop"):
        made = _pair(settings.get("crop_size"))
        cuts = _pair(size) != made
    else:
        made, cuts = _pair(size), False
    if family in ("idefics3", "smolvlm"):
        made = _pair(settings.get("max_image_size"))
    elif settings.get("do_pad") and "shortest_edge" in size:  # LLaVA's own: padded to a square
        made, cuts = _pair(size["shortest_edge"]), False
        return _checked(path, made, asked, "letterbox"), []
    if cuts:
        return _checked(path, made, asked, "letterbox"), [
            "the processor cuts the longer sides of a frame off, where things to point at may "
            "lie: here the whole frame is put between grey bars, its aspect ratio kept"
        ]
    return _checked(path, made, asked, "squash"), []


def _pair(size: Any) -> tuple[int, int] | None:
    """(width, height) of a size as processors write it; None where it is not a fixed one."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        return None
    if "longest_edge" in size and "shortest_edge" not in size:
        return size["longest_edge"], size["longest_edge"]
    if "height" in size and "width" in size:
        return size["width"], size["height"]
    return None


def _checked(
    path: Path,
    made: tuple[int, int] | None,
    asked: tuple[int, int],
    kind: Literal["squash", "letterbox"],
) -> Literal["squash", "letterbox"]:
    if made is None:
        raise UnsupportedError(
            f"{path} makes pictures of no fixed size, the vision tower takes {asked[0]} x "
            f"{asked[1]}: this processor is not supported"
        )
    if made != asked:
        raise UnsupportedError(
            f"{path} makes pictures of {made[0]} x {made[1]} pixels, the vision tower takes "
            f"{asked[0]} x {asked[1]}: they are not of one checkpoint"
        )
    return kind
