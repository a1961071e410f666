"""A run made up: the features of eight pairs turn towards each other over four looks."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm.report.page import Report
from edge_mm.train.trace import Look, Subjects
from edge_mm.words import KINDS

PAIRS, GRID = 8, 3
TOGETHER = (0.0, 0.4, 0.8, 1.0)  # how far the pairs have turned at each look


def made_up_look(number: int) -> Look:
    """Look `number` of the run; at the last one, picture and caption are the same vector."""
    rng = np.random.default_rng(5)
    image, text = rng.normal(size=(2, PAIRS, 12))
    share = TOGETHER[number]
    return Look(
        stage="contrastive" if number < 2 else "align",
        step=10 * number,
        samples=160 * number,
        image=image.astype(np.float32),
        text=(share * image + (1 - share) * text).astype(np.float32),
        word=np.array([[2] * 4 + [number] * 5]),
        cosine=np.linspace(-0.1, 0.9, 9, dtype=np.float32)[None],
    )


@pytest.fixture
def subjects() -> Subjects:
    captions = tuple(f"caption {number} </script><b>" for number in range(PAIRS))
    return Subjects(captions, KINDS, GRID, (1,), ((2, 2, -1, -1, 3, 3, 3, 3, -1),))


@pytest.fixture
def report(subjects: Subjects) -> Report:
    frames = [np.full((30, 40, 3), 20 * number, np.uint8) for number in range(PAIRS)]
    lines = [
        {"stage": stage, "step": step, "samples": samples, "language": 1 / samples, "rate": 1.0}
        for stage, step, samples in (
            ("contrastive", 5, 80),
            ("contrastive", 10, 160),
            ("align", 10, 320),
            ("align", 20, 480),
        )
    ]
    looks = [made_up_look(number) for number in range(len(TOGETHER))]
    return Report("made up", subjects, frames, looks, lines)
