"""Looks at a model -> what the page draws of them: cosines, a plane of features, figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_mm.evaluate.embeddings import (
    effective_rank,
    modality_gap,
    normalised,
    recall_at,
    same_captions,
)
from edge_mm.train.trace import Look, Subjects

# Figures of a look, and what they mean.
FIGURES = {
    "diagonal": "mean cosine of a picture and its own caption",
    "rest": "mean cosine of a picture and another one's caption",
    "retrieved": "pictures whose nearest caption is their own",
    "gap": "distance between the mean picture and the mean caption",
    "rank": "effective rank of the picture features",
    "words": "tokens that show one thing and are nearest to its word",
}


def cosines(look: Look) -> np.ndarray:
    """Every picture with every caption, [N,N]."""
    table: np.ndarray = normalised(look.image) @ normalised(look.text).T
    return table


def figures(look: Look, subjects: Subjects) -> dict[str, float | None]:
    """The FIGURES of a look; `words` is None where tokens have no places or show nothing clear."""
    table = cosines(look)
    itself = np.eye(len(table), dtype=bool)
    shown = np.array(subjects.shown)
    right = (look.word == shown)[shown >= 0] if shown.size else shown
    return {
        "diagonal": float(table[itself].mean()),
        "rest": float(table[~itself].mean()),
        "retrieved": float(recall_at(table, same_captions(subjects.captions), 1).mean()),
        "gap": modality_gap(look.image, look.text),
        "rank": effective_rank(look.image),
        "words": float(right.mean()) if right.size else None,
    }


def plane(looks: Sequence[Look]) -> tuple[list[np.ndarray], float]:
    """Normalised features in two dimensions, [2N,2] a look, pictures first; and what they keep.

    The axes are the principal components of the last look, and the same for all of them, so that
    what moves on the page moves in the model. The second value is the share of the last look's
    variance that lies in the plane.
    """
    rows = [np.concatenate([normalised(look.image), normalised(look.text)]) for look in looks]
    centre = rows[-1].mean(0)
    _, values, axes = np.linalg.svd(rows[-1] - centre, full_matrices=False)
    whole = float((values**2).sum())
    kept = float((values[:2] ** 2).sum()) / whole if whole > 0 else 1.0
    return [(one - centre) @ axes[:2].T for one in rows], kept
