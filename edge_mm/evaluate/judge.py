"""Was an answer right? One question, its answer, and what it counts for; pure functions.

metric           n counts                          right when
locate_acc50/75  locate (one object meant)         the first box overlaps it with IoU >= 0.5 / 0.75
point_in_box     locate, point                     centre of the box, or the point, lies in its box
point_in_mask    locate, point                     the point lies on its pixels, where known
locate_all_f1    locate_all                        F1 of boxes matched at IoU 0.5 (a share)
exist_f1         exist                             F1 of "yes"
absent_refused   absent                            the answer is "not in view"
found            locate, locate_all, point         it is there, and the answer shows something
count_exact, color_acc, relation_acc, compare_acc  the word is the right one
caption_exact    caption                           every object and colour, from left to right
order_exact      order                             every name, in the order that was asked for
steps_exact      steps                             actions, relations, labels, and every box at 0.5
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_mm.data.questions import Question
from edge_mm.data.scenes import Seen
from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.grounding import parse

Box = Sequence[float]

WORD_METRICS = {
    "count": "count_exact",
    "color": "color_acc",
    "relation": "relation_acc",
    "compare": "compare_acc",
    "caption": "caption_exact",
    "order": "order_exact",
}


def judge(
    question: Question,
    answer: Answer,
    targets: Sequence[Seen],
    size: tuple[int, int],
    segmentation: np.ndarray | None = None,
) -> dict[str, float]:
    """Metric -> 0..1 for one answer.

    targets       the question's objects
    size          width, height of the frame
    segmentation  object ids of the frame's pixels [H,W], where the data has them
    """
    boxes = [pixels(item.box, size) for item in targets]
    if question.type in WORD_METRICS:
        return {WORD_METRICS[question.type]: float(answer.text == question.answer)}
    if question.type == "absent":
        return {"absent_refused": float(answer.found is False)}
    if question.type == "exist":  # F1 is made of these three in metrics.py
        said, true = answer.text == "yes", question.answer == "yes"
        return {
            "exist_f1.hit": float(said and true),
            "exist_f1.said": float(said),
            "exist_f1.true": float(true),
        }
    scores = {"found": float(bool(answer.objects))}
    if question.type == "locate":
        found = answer.objects[0].box_xyxy if answer.objects else None
        overlap = iou(found, boxes[0]) if found else 0.0
        scores |= {
            "locate_acc50": float(overlap >= 0.5),
            "locate_acc75": float(overlap >= 0.75),
            "locate_iou": overlap,
            "point_in_box": float(found is not None and holds(boxes[0], _centre(found))),
        }
    elif question.type == "locate_all":
        found_boxes = [item.box_xyxy for item in answer.objects if item.box_xyxy]
        hits = matches(found_boxes, boxes)
        scores["locate_all_f1"] = 2 * hits / max(1, len(found_boxes) + len(boxes))
    elif question.type == "point":
        point = answer.objects[0].point_xy if answer.objects else None
        scores["point_in_box"] = float(point is not None and holds(boxes[0], point))
    elif question.type == "steps":
        scores = {"steps_exact": float(_same_steps(question, answer, boxes))}
    if question.type in ("locate", "point") and segmentation is not None:
        item = answer.objects[0] if answer.objects else None
        on_it = item is not None and _pixel(segmentation, _touched(item)) == targets[0].id
        scores["point_in_mask"] = float(on_it)
    return scores


def _same_steps(question: Question, answer: Answer, boxes: Sequence[Box]) -> bool:
    wanted = parse(question.answer).steps
    said = answer.steps
    return len(said) == len(wanted) and all(
        (step.action, step.relation, step.object.label)
        == (want.action, want.relation, want.region.label)
        and step.object.box_xyxy is not None
        and iou(step.object.box_xyxy, box) >= 0.5
        for step, want, box in zip(said, wanted, boxes, strict=True)
    )


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x1 y1 x2 y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (areas - overlap)


def matches(found: Sequence[Box], wanted: Sequence[Box], threshold: float = 0.5) -> int:
    """How many wanted boxes are matched one to one, best pairs first."""
    return sum(overlap >= threshold for overlap in matched_overlaps(found, wanted))


def matched_overlaps(found: Sequence[Box], wanted: Sequence[Box]) -> list[float]:
    """IoU of the boxes matched one to one, best pairs first."""
    overlaps: list[float] = []
    left, open_ones = list(found), list(wanted)
    while left and open_ones:
        overlap, i, j = max(
            (iou(a, b), i, j) for i, a in enumerate(left) for j, b in enumerate(open_ones)
        )
        overlaps.append(overlap)
        del left[i], open_ones[j]
    return overlaps


def pixels(box: Box, size: tuple[int, int]) -> Box:
    return box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _touched(item: GroundedObject) -> Sequence[float]:
    """The point of an object; the centre of its box where only that is known."""
    return item.point_xy or _centre(item.box_xyxy or ())


def _pixel(segmentation: np.ndarray, point: Sequence[float]) -> int:
    """The id under a point in pixels; one on the far edge belongs to the last row or column."""
    height, width = segmentation.shape
    return int(segmentation[min(int(point[1]), height - 1), min(int(point[0]), width - 1)])


def holds(box: Box, point: Sequence[float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
