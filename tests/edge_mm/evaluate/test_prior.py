"""The grey picture: what text alone gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_mm.evaluate.exam import sit
from edge_mm.evaluate.metrics import summarise
from edge_mm.evaluate.prior import WORDS, text_prior
from edge_mm_runtime.answer import Answer, GroundedObject


def test_seen_blank_and_majority(scene_folder: Path) -> None:
    """A model that knows every answer, as long as it sees something."""
    known: dict[str, str] = {}

    def ask(frame: np.ndarray, text: str) -> Answer:
        if (frame == 127).all():
            thing = GroundedObject("cup", (0, 0, 9, 9), (3, 3), 0.9)
            return Answer("2", (thing,) if text.startswith("W") else (), None, (), "stop", {})
        return Answer(known.get(text, ""), (), None, (), "stop", {})

    for picture in sit(ask, scene_folder, questions=14):
        known |= {marked.item.question.text: marked.item.question.answer for marked in picture}
    exam = sit(ask, scene_folder, questions=14)
    figures = summarise(text_prior(ask, exam))
    asked = [m.item.question for picture in exam for m in picture]
    for kind in ("exist", "count", "color"):
        right = [q.answer for q in asked if q.type == kind]
        assert len(right) >= 6
        assert figures[f"{kind}_blank"].value == round(np.mean([r == "2" for r in right]), 4)
        most = max(right.count(answer) for answer in right) / len(right)
        assert figures[f"{kind}_majority"].value == round(most, 4)
    assert figures["words_seen"].n == sum(q.type in WORDS for q in asked)
    assert figures["words_seen"].value > figures["words_blank"].value
    places = [q.text for q in asked if q.type in ("locate", "locate_all", "point")]
    wanted = np.mean([text.startswith("W") for text in places])
    assert figures["blank_located"].value == round(wanted, 4) and 0 < wanted < 1
