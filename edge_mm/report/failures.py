"""The worst answers of an exam, of every type of question in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from edge_mm.evaluate.exam import Marked
from edge_mm.evaluate.judge import WORD_METRICS
from edge_mm.evaluate.metrics import Scores

WORST = 12
RIGHT = 0.5  # from here on an answer is no failure: an IoU, an F1, or the share that is right
# What says how right an answer is: the first of these that its question is scored by.
MAIN = (
    "locate_iou",
    "locate_all_f1",
    "point_in_box",
    "absent_refused",
    "steps_exact",
    *WORD_METRICS.values(),
)


def rightness(scores: Scores) -> float:
    """How right one answer is, 0..1."""
    if "exist_f1.said" in scores:
        return float(scores["exist_f1.said"] == scores["exist_f1.true"])
    return next(scores[name] for name in MAIN if name in scores)


def worst(exam: Sequence[Sequence[Marked]], number: int = WORST) -> list[Marked]:
    """The failures that are most wrong, and of these the most confident ones.

    First the worst one of every type of question, then the second ones, and so on.
    """
    failures = [one for picture in exam for one in picture if rightness(one.scores) < RIGHT]
    failures.sort(key=lambda one: (rightness(one.scores), -_confidence(one)))
    met: Counter[str] = Counter()
    turns = []
    for failure in failures:
        turns.append(met[failure.item.question.type])
        met[failure.item.question.type] += 1
    order = sorted(range(len(failures)), key=lambda i: turns[i])
    return [failures[i] for i in order[:number]]


def _confidence(marked: Marked) -> float:
    return max((item.confidence for item in marked.answer.objects), default=0.0)
