"""An answer drawn into its frame: boxes, grasp points, labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_mm_runtime.answer import Answer, GroundedObject, Step
from edge_mm_runtime.extras import require
from edge_mm_runtime.image import Frame, check_frame

# BGR, light enough for black text; told apart by people with any colour vision (Okabe and Ito).
PALETTE = (
    (0, 159, 230),
    (233, 180, 86),
    (115, 158, 0),
    (66, 228, 240),
    (167, 121, 204),
    (0, 94, 213),
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def draw_answer(frame: Frame, answer: Answer) -> Frame:
    """A BGR copy of the frame [H, W, 3] with every object of the answer; the text, if none."""
    cv2 = require("cv2", "cpu")
    check_frame(frame)
    picture = _bgr_copy(frame)
    unit = max(1.0, min(picture.shape[:2]) / 320)  # line width of a frame of 320 pixels
    for index, item in enumerate(answer.objects):
        words = f"{item.label} {item.confidence:.2f}"
        colour = index
        if item.track_id is not None:  # an object keeps its colour and its number through time
            words, colour = f"{item.track_id} {words}", item.track_id
        if answer.steps:
            number, step = _step(answer, item)
            relation = f"{step.relation} " if step.relation else ""
            words = f"{number} {step.action} {relation}{item.label}"
        _draw_object(cv2, picture, item, words, PALETTE[colour % len(PALETTE)], unit)
    if not answer.objects:
        _draw_words(cv2, picture, answer.text, (0, 0), WHITE, unit)
    return picture


def _step(answer: Answer, item: GroundedObject) -> tuple[int, Step]:
    """The step of an object, and its number from 1; objects that were lost are left out."""
    return next((n, step) for n, step in enumerate(answer.steps, 1) if step.object == item)


def _draw_object(
    cv2: Any,
    picture: Frame,
    item: GroundedObject,
    words: str,
    color: tuple[int, int, int],
    unit: float,
) -> None:
    corner = (0, 0)
    if item.point_xy is not None:
        corner = _pixel(picture, item.point_xy)
        cv2.circle(picture, corner, round(4 * unit), BLACK, -1, cv2.LINE_AA)
        cv2.circle(picture, corner, round(3 * unit), color, -1, cv2.LINE_AA)
    if item.box_xyxy is not None:
        corner = _pixel(picture, item.box_xyxy[:2])
        opposite = _pixel(picture, item.box_xyxy[2:])
        cv2.rectangle(picture, corner, opposite, BLACK, round(3 * unit))
        cv2.rectangle(picture, corner, opposite, color, round(2 * unit))
    _draw_words(cv2, picture, words, corner, color, unit)


def _draw_words(
    cv2: Any,
    picture: Frame,
    words: str,
    corner: tuple[int, int],
    color: tuple[int, int, int],
    unit: float,
) -> None:
    """Black words on a coloured plate above `corner`, moved so that it stays in the picture."""
    font, scale, thickness = cv2.FONT_HERSHEY_SIMPLEX, 0.4 * unit, max(1, round(unit))
    shown = words.encode("ascii", "replace").decode()  # the Hershey fonts know no more
    (width, height), base = cv2.getTextSize(shown, font, scale, thickness)
    margin = round(2 * unit)
    plate_height = height + base + margin
    left = max(0, min(corner[0], picture.shape[1] - width - 2 * margin))
    top = max(0, corner[1] - plate_height)
    plate = (left + width + 2 * margin, top + plate_height)
    cv2.rectangle(picture, (left, top), plate, color, -1)
    origin = (left + margin, top + height + margin // 2 + 1)
    cv2.putText(picture, shown, origin, font, scale, BLACK, thickness, cv2.LINE_AA)


def _pixel(picture: Frame, xy: tuple[float, ...]) -> tuple[int, int]:
    """The pixel that holds a point; a point on the right or lower edge goes to the last one."""
    return (
        min(int(xy[0]), picture.shape[1] - 1),
        min(int(xy[1]), picture.shape[0] - 1),
    )


def _bgr_copy(frame: Frame) -> Frame:
    planes = frame[..., None] if frame.ndim == 2 else frame
    planes = np.repeat(planes, 3, axis=2) if planes.shape[2] == 1 else planes[..., :3]
    return np.ascontiguousarray(planes).copy()
