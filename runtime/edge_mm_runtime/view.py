"""What the vision graph says about a frame, kept until another frame is looked at."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.guide import Regions
from edge_mm_runtime.image import ImageTransform
from edge_mm_runtime.runner import Runner
from edge_mm_runtime.similar import Thumbnail, check_similar, difference, thumbnail

PixelValues = npt.NDArray[np.float32]


class View(NamedTuple):
    """One picture as the decoder and the region head see it."""

    pixel_values: PixelValues  # [1, 3, H, W]
    image_embeds: npt.NDArray[np.float32]  # [T, D]
    regions: Regions | None  # with a region head only


class Look(NamedTuple):
    """A view, or None where there was no time to look, and how it was come by.

    looked   the vision graph ran
    similar  another frame, that looks the same, was seen in place of this one
    """

    view: View | None
    looked: bool = False
    similar: bool = False

    @property
    def regions(self) -> Regions | None:
        """Of the view, if it has any."""
        return None if self.view is None else self.view.regions


NOT_LOOKED = Look(None)


class Viewer:
    """Looks at frames, and not twice at the same.

    points   whether the graph gives regions
    similar  frames that differ by no more than this from the one that was really looked at (grey
             levels, see similar.py) are not looked at; None: only a frame of the same pixels is not
    """

    def __init__(
        self, runner: Runner, transform: ImageTransform, points: bool, similar: float | None
    ) -> None:
        check_similar(similar)
        self._runner = runner
        self._transform = transform
        self._points = points
        self._similar = similar
        self._last: View | None = None
        self._thumbnail: Thumbnail | None = None  # of the last one
        self._blank: View | None = None

    def look(self, pixel_values: PixelValues) -> Look:
        """The view of a frame: a new one, or the last one if it will do."""
        last = self._last
        if last is not None and np.array_equal(last.pixel_values, pixel_values):
            return Look(last)
        small = None if self._similar is None else thumbnail(pixel_values, self._transform)
        if last is not None and small is not None and self._is_similar(last, pixel_values, small):
            return Look(last, similar=True)
        self._last = None  # stays so if the graph fails
        self._last, self._thumbnail = self._see(pixel_values), small
        return Look(self._last, looked=True)

    def blank(self, pixel_values: PixelValues) -> View:
        """The view of a picture of the same size and all of the mean colour, looked at once."""
        nothing = np.zeros_like(pixel_values)  # normalised, so 0 is ImageTransform.mean
        if self._blank is None or self._blank.pixel_values.shape != nothing.shape:
            self._blank = self._see(nothing)
        return self._blank

    def close(self) -> None:
        """Give the engine's memory back."""
        self._runner.close()

    def _is_similar(self, last: View, pixel_values: PixelValues, small: Thumbnail) -> bool:
        if last.pixel_values.shape != pixel_values.shape:
            return False  # some models speak in its pixels
        known, most = self._thumbnail, self._similar
        return known is not None and most is not None and difference(known, small) <= most

    def _see(self, pixel_values: PixelValues) -> View:
        outputs = self._runner.run({"pixel_values": pixel_values})
        regions = None
        if self._points:
            regions = Regions(outputs["region_keys"][0], outputs["region_boxes"][0])
        return View(pixel_values, outputs["image_embeds"][0], regions)
