"""How much of the exam text alone answers: the same questions about a grey picture.

What is right without the picture was learnt from the statistics of the answers. It stands beside
what is right with the picture, and beside always giving the most frequent answer of the type
(the language bias of VQA; Goyal et al., arXiv 1612.00837).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from edge_mm.data.scenes import Scene
from edge_mm.evaluate.exam import Ask, Marked, progress
from edge_mm.evaluate.metrics import Scores

WORDS = ("exist", "count", "color", "relation", "compare")
PLACES = ("locate", "locate_all", "point")
GREY = 127


def blank(scene: Scene) -> np.ndarray:
    """A grey frame of the scene's size, uint8 [H,W,3]."""
    return np.full((scene.height, scene.width, 3), GREY, np.uint8)


def text_prior(ask_model: Ask, exam: Sequence[Sequence[Marked]]) -> list[list[Scores]]:
    """Ask what was asked in the exam about a grey picture; scores for metrics.figures."""
    usual = majority(exam)
    pictures = []
    for number, picture in enumerate(exam, 1):
        scores: list[Scores] = []
        for marked in picture:
            question, scene = marked.item.question, marked.item.scene
            if question.type in WORDS:
                without = ask_model(blank(scene), question.text).text
                said = {
                    "seen": marked.answer.text,
                    "blank": without,
                    "majority": usual[question.type],
                }
                scores.append(
                    {
                        f"{kind}_{view}": float(word == question.answer)
                        for kind in (question.type, "words")
                        for view, word in said.items()
                    }
                )
            elif question.type in PLACES:
                located = ask_model(blank(scene), question.text).objects
                scores.append({"blank_located": float(bool(located))})
        pictures.append(scores)
        progress("grey pictures", number, len(exam))
    return pictures


def majority(exam: Sequence[Sequence[Marked]]) -> dict[str, str]:
    """The most frequent right answer of each type."""
    right: dict[str, Counter[str]] = {}
    for picture in exam:
        for marked in picture:
            question = marked.item.question
            right.setdefault(question.type, Counter())[question.answer] += 1
    return {kind: counter.most_common(1)[0][0] for kind, counter in right.items()}
