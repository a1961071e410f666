"""How well picture and text features agree; numpy on features, row i of both belongs together.

All functions take features of any length and compare by cosine. Equal captions are equally right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NEIGHBOURS = 5


def normalised(features: np.ndarray) -> np.ndarray:
    """Rows [N,D] at length 1, in float64."""
    features = np.asarray(features, np.float64)
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    rows: np.ndarray = features / np.maximum(lengths, 1e-12)
    return rows


def same_captions(captions: Sequence[str]) -> np.ndarray:
    """[N,N] bool: which captions are equal."""
    _, number = np.unique(np.array(captions), return_inverse=True)
    same: np.ndarray = number[:, None] == number[None]
    return same


def recall_at(cosines: np.ndarray, same: np.ndarray, k: int) -> np.ndarray:
    """Whether a right column is among the first k of each row; [N,N], [N,N] bool -> [N].

    A wrong column with the same cosine goes first, so features that say nothing find nothing.
    """
    best = np.where(same, cosines, -np.inf).max(1)
    hit: np.ndarray = ((cosines >= best[:, None]) & ~same).sum(1) < k
    return hit


def ranked_above(cosines: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Probability that a pair's cosine is above that of a random wrong column; [N], ties half.

    Nan where no column is wrong.
    """
    pair = np.diag(cosines)[:, None]
    above = (pair > cosines) + 0.5 * (pair == cosines)
    wrong = ~same
    return np.where(wrong.any(1), (above * wrong).sum(1) / np.maximum(wrong.sum(1), 1), np.nan)


def modality_gap(image: np.ndarray, text: np.ndarray) -> float:
    """Distance between the means of the normalised features (Liang et al., arXiv 2203.02053)."""
    return float(np.linalg.norm(normalised(image).mean(0) - normalised(text).mean(0)))


def effective_rank(features: np.ndarray) -> float:
    """How many directions normalised features [N,D] use about their mean: 1 is a line, D all.

    exp of the entropy of the singular values' shares (Roy & Vetterli, EUSIPCO 2007); a low one is
    the dimensional collapse of Jing et al., arXiv 2110.09348. 0 where all rows are equal.
    """
    rows = normalised(features)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    values = values[values > 1e-9]
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def neighbour_agreement(image: np.ndarray, text: np.ndarray, k: int = NEIGHBOURS) -> np.ndarray:
    """Share of the k nearest pictures of a picture that are the nearest by caption too; [N].

    The mutual nearest neighbours of Huh et al., arXiv 2405.07987; 0 < k < N.
    """
    near = []
    for features in (image, text):
        cosines = _cosines_to_others(features)
        chosen = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        mask = np.zeros(cosines.shape, bool)
        np.put_along_axis(mask, chosen, True, axis=1)
        near.append(mask)
    shared: np.ndarray = (near[0] & near[1]).sum(1) / k
    return shared


def semantic_consistency(image: np.ndarray, likeness: np.ndarray) -> np.ndarray:
    """Mean cosine to the pictures that show the most alike, minus that to all others; [N].

    likeness [N,N] says how much two pictures show the same, e.g. `jaccard`. Nan where every other
    picture is as much alike.
    """
    cosines = _cosines_to_others(image)
    itself = np.eye(len(cosines), dtype=bool)
    alike = np.where(itself, -np.inf, likeness)
    nearest = (alike == alike.max(1, keepdims=True)) & ~itself
    others = ~nearest & ~itself
    near, far = (
        np.where(mask, cosines, 0.0).sum(1) / np.maximum(mask.sum(1), 1)
        for mask in (nearest, others)
    )
    return np.where(nearest.any(1) & others.any(1), near - far, np.nan)


def jaccard(sets: Sequence[frozenset[str]]) -> np.ndarray:
    """Shared words over all words of each two sets, [N,N]; two empty sets are alike."""
    words = sorted(set().union(*sets))
    holds = np.array([[word in one for word in words] for one in sets], np.float64)
    shared = holds @ holds.T
    sizes = holds.sum(1)
    union = sizes[:, None] + sizes[None] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def zero_shot(crops: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Crops [M,D] and prompts of classes [C,P,D] -> the nearest class of each crop, [M].

    A class is the mean of its normalised prompts (prompt ensemble of CLIP, arXiv 2103.00020).
    """
    classes = normalised(normalised(prompts).mean(1))
    nearest: np.ndarray = (normalised(crops) @ classes.T).argmax(1)
    return nearest


def _cosines_to_others(features: np.ndarray) -> np.ndarray:
    rows = normalised(features)
    cosines: np.ndarray = rows @ rows.T
    np.fill_diagonal(cosines, -np.inf)
    return cosines
