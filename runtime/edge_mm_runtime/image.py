"""From a camera frame to the model's input, and back: the coordinate contract.

A frame is a uint8 array as OpenCV gives it: H x W, H x W x 1, H x W x 3 (BGR) or H x W x 4 (BGRA,
alpha ignored). Coordinates are continuous: x runs from 0 at the left edge of the first pixel to W
at the right edge of the last one. `ImageTransform` is stored with the checkpoint and the bundle;
trainer and runtime call the same code, so what the model sees is the same by construction.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edge_mm_runtime.errors import ImageError
from edge_mm_runtime.extras import require

Frame = npt.NDArray[np.uint8]
Coordinates = npt.NDArray[np.float64]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_ASPECT_RATIO = 200.0


class Placement(msgspec.Struct, frozen=True):
    """Where a frame lies in a model input, per axis: x_model = x * content / frame + offset.

    Points are arrays [..., 2] of x y, boxes [..., 4] of x1 y1 x2 y2; both are accepted everywhere.
    `to_frame` is the exact inverse of `to_model`, then clipped to the frame.
    """

    frame_width: int
    frame_height: int
    model_width: int
    model_height: int
    content_width: int  # size of the resized frame inside the model input
    content_height: int
    offset_x: int = 0
    offset_y: int = 0

    def to_model(self, coordinates: npt.ArrayLike) -> Coordinates:
        """Frame pixels -> model-input pixels."""
        values, pairs = _pairs(coordinates)
        out = pairs * self._content() / self._frame() + (self.offset_x, self.offset_y)
        return out.reshape(values.shape)

    def to_frame(self, coordinates: npt.ArrayLike) -> Coordinates:
        """Model-input pixels -> frame pixels, clipped to the frame."""
        values, pairs = _pairs(coordinates)
        out = (pairs - (self.offset_x, self.offset_y)) * self._frame() / self._content()
        return np.clip(out, 0.0, self._frame()).reshape(values.shape)

    def to_unit(self, coordinates: npt.ArrayLike) -> Coordinates:
        """Frame pixels -> model input normalised to 0..1, the coordinates that the model speaks."""
        values, pairs = _pairs(self.to_model(coordinates))
        return (pairs / self._model()).reshape(values.shape)

    def from_unit(self, coordinates: npt.ArrayLike) -> Coordinates:
        """Model input normalised to 0..1 -> frame pixels, clipped to the frame."""
        values, pairs = _pairs(coordinates)
        return self.to_frame((pairs * self._model()).reshape(values.shape))

    def _frame(self) -> Coordinates:
        return np.array([self.frame_width, self.frame_height], dtype=np.float64)

    def _content(self) -> Coordinates:
        return np.array([self.content_width, self.content_height], dtype=np.float64)

    def _model(self) -> Coordinates:
        return np.array([self.model_width, self.model_height], dtype=np.float64)


class ImageTransform(msgspec.Struct, frozen=True):
    """How a frame becomes `pixel_values`.

    squash        resize to width x height, aspect ratio given up
    letterbox     resize inside width x height, centred, the rest filled with the grey value `fill`
    smart_resize  keep the aspect ratio; both sides multiples of `multiple_of`, at least
                  `min_pixels` and at most width * height pixels (Qwen2-VL, arXiv 2409.12191)
    """

    kind: Literal["squash", "letterbox", "smart_resize"]
    width: int
    height: int
    interpolation: Literal["area", "linear", "cubic"] = "area"  # area: linear where it enlarges
    mean: tuple[float, float, float] = IMAGENET_MEAN  # RGB, of values scaled to 0..1
    std: tuple[float, float, float] = IMAGENET_STD
    fill: int = 0
    multiple_of: int = 1
    min_pixels: int = 1

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.multiple_of < 1:
            raise ValueError(
                f"ImageTransform sizes must be positive: width {self.width}, "
                f"height {self.height}, multiple_of {self.multiple_of}"
            )
        if not 0 <= self.fill <= 255 or min(self.std) <= 0:
            raise ValueError("ImageTransform needs fill in 0..255 and positive std")

    def placement(self, width: int, height: int) -> Placement:
        """Where a frame of width x height pixels lands in the model input."""
        if width < 1 or height < 1:
            raise ImageError(f"the frame is empty: {width} x {height} pixels")
        if self.kind == "squash":
            return Placement(width, height, self.width, self.height, self.width, self.height)
        if self.kind == "smart_resize":
            model_width, model_height = self._smart_size(width, height)
            return Placement(width, height, model_width, model_height, model_width, model_height)
        scale = min(self.width / width, self.height / height)
        content_width = min(self.width, max(1, round(width * scale)))
        content_height = min(self.height, max(1, round(height * scale)))
        return Placement(
            width,
            height,
            self.width,
            self.height,
            content_width,
            content_height,
            (self.width - content_width) // 2,
            (self.height - content_height) // 2,
        )

    def apply(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Frame -> pixel_values [1, 3, H, W] float32, RGB, normalised. Deterministic."""
        check_frame(frame)
        place = self.placement(frame.shape[1], frame.shape[0])
        pixels = self._resize(frame, place.content_width, place.content_height)
        if pixels.shape[:2] != (place.model_height, place.model_width):
            canvas = np.full(
                (place.model_height, place.model_width, *pixels.shape[2:]), self.fill, np.uint8
            )
            rows = slice(place.offset_y, place.offset_y + place.content_height)
            columns = slice(place.offset_x, place.offset_x + place.content_width)
            canvas[rows, columns] = pixels
            pixels = canvas
        pixel_values = np.empty((1, 3, *pixels.shape[:2]), dtype=np.float32)
        for channel, table in enumerate(self._tables()):
            plane = pixels if pixels.ndim == 2 else pixels[..., 2 - channel]
            np.take(table, plane, out=pixel_values[0, channel], mode="clip")
        return pixel_values

    def _tables(self) -> npt.NDArray[np.float32]:
        """[3, 256] normalised value of each of the 256 pixel values, for R, G, B."""
        values = np.arange(256, dtype=np.float64) / 255.0
        mean, std = np.array(self.mean), np.array(self.std)
        tables: npt.NDArray[np.float32] = ((values - mean[:, None]) / std[:, None]).astype("f4")
        return tables

    def _resize(self, frame: Frame, width: int, height: int) -> Frame:
        cv2 = require("cv2", "cpu")
        pixels = frame[..., 0] if frame.ndim == 3 and frame.shape[2] == 1 else frame[..., :3]
        if frame.ndim == 2:
            pixels = frame
        if pixels.shape[:2] == (height, width):
            return pixels
        shrinks = width <= pixels.shape[1] and height <= pixels.shape[0]
        mode = {
            "area": cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
            "linear": cv2.INTER_LINEAR,
            "cubic": cv2.INTER_CUBIC,
        }[self.interpolation]
        resized: Frame = cv2.resize(
            np.ascontiguousarray(pixels), (width, height), interpolation=mode
        )
        return resized

    def _smart_size(self, width: int, height: int) -> tuple[int, int]:
        if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
            raise ImageError(
                f"a frame of {width} x {height} is too narrow: "
                f"the longer side may be at most {MAX_ASPECT_RATIO:.0f} times the shorter one"
            )
        unit, most = self.multiple_of, self.width * self.height
        wide, high = (round(side / unit) * unit for side in (width, height))
        if wide * high > most:
            shrink = math.sqrt(width * height / most)
            wide, high = (
                max(unit, math.floor(side / shrink / unit) * unit) for side in (width, height)
            )
        elif wide * high < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width * height))
            wide, high = (math.ceil(side * grow / unit) * unit for side in (width, height))
        return wide, high


def check_frame(frame: object) -> None:
    """Raise ImageError unless `frame` is a camera frame as described at the top of this file."""
    if not isinstance(frame, np.ndarray):
        raise ImageError(
            f"a frame is a numpy array, this is {type(frame).__name__}: use read_image"
        )
    if frame.dtype != np.uint8:
        raise ImageError(f"a frame has dtype uint8 (values 0..255), this one has {frame.dtype}")
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"a frame is H x W, H x W x 3 (BGR) or H x W x 4 (BGRA), this one is {frame.shape}"
        )
    if frame.size == 0:
        raise ImageError(f"the frame is empty: shape {frame.shape}")


def read_image(path: str | Path) -> Frame:
    """Picture file -> BGR frame [H, W, 3]; EXIF rotation applied, alpha dropped."""
    cv2 = require("cv2", "cpu")
    path = Path(path)
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except FileNotFoundError:
        raise ImageError(f"no such picture: {path}") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not a picture: use `edge-mm run --source`") from None
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror}") from None
    try:
        frame: Frame | None = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except cv2.error:  # refused by size or by a broken header
        frame = None
    if frame is None:
        raise ImageError(f"{path} is not a picture that OpenCV can read (JPEG, PNG, WebP, BMP ...)")
    return frame


def write_image(path: str | Path, frame: Frame) -> None:
    """Frame -> picture file, in the format of its suffix; ImageError when it cannot be written."""
    cv2 = require("cv2", "cpu")
    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix, frame)
    except cv2.error:  # no encoder of that name
        done = False
    if not done:
        raise ImageError(f"cannot write {path}: use a name that ends in .jpg, .png or .webp")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data.tobytes())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ImageError(f"cannot write {path}: {error.strerror}") from None


def _pairs(coordinates: npt.ArrayLike) -> tuple[Coordinates, Coordinates]:
    """Coordinates as float64, and the same as [..., n, 2] pairs of x y."""
    values = np.asarray(coordinates, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] not in (2, 4):
        raise ValueError(f"points are [..., 2] and boxes [..., 4], this is {values.shape}")
    return values, values.reshape(*values.shape[:-1], values.shape[-1] // 2, 2)
