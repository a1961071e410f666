"""Confidence of a located object, and of an answer in words; then calibrated.

Located: p(there is one) x p(it is this place).

presence  probability of the token that opened the object among the tokens that would have denied
          it (`<none>`, and the end of the answer for a second and further object)
mass      probability of the place: with a region head, the softmax mass of all cells whose box
          agrees with the chosen one (a large object covers many cells, each of small mass); with
          location tokens, the geometric mean of their probabilities

Words, and "not in view": the probability of the whole answer, that is the product over every
choice of the decoder, its end included, of the softmax over what the grammar allows there. An id
that the grammar leaves no choice about counts 1. Nothing is divided by the length: a caption of
twenty words is less likely to be right in all of them than one word, and a robot may compare the
number only with that of answers of the same sort. Where an existence threshold overrules the
likelier id, "not in view" may be below 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

AGREES_IOU = 0.5


def presence(logits: Floats, opening: int, denying: Sequence[int]) -> float:
    """p(opening token) against the denying ones; logits [V], -inf where not allowed."""
    return float(softmax(logits[[opening, *denying]])[0])


def region_place(scores: Floats, places: Floats) -> tuple[npt.NDArray[np.float32], float]:
    """The pointed place [6] and its mass: scores [P], places [P, 6] with the box in front.

    The best cell and those whose box agrees with its box say it together, weighted by their mass.
    """
    mass = softmax(scores)
    agree = iou(places[mass.argmax(), :4], places[:, :4]) >= AGREES_IOU
    weight = np.where(agree, mass, 0.0)
    total = float(weight.sum())
    return (weight @ places / total).astype(np.float32), min(1.0, total)


def token_mass(probabilities: Sequence[float]) -> float:
    """Geometric mean of the probabilities of the location tokens."""
    return float(np.exp(np.mean(np.log(np.maximum(probabilities, 1e-12)))))


def calibrate(raw: float, temperature: float | None) -> float:
    """Temperature scaling of a probability: sigmoid(logit(raw) / temperature); None leaves it."""
    if temperature is None:
        return raw
    bounded = min(max(raw, 1e-6), 1 - 1e-6)
    return float(1 / (1 + np.exp(-np.log(bounded / (1 - bounded)) / temperature)))


def softmax(scores: Floats) -> npt.NDArray[np.float64]:
    """Softmax over the last axis in float64; -inf is probability 0."""
    most = scores.max(axis=-1, keepdims=True)
    # In place: of a large vocabulary, new arrays cost more time than what is computed.
    out: npt.NDArray[np.float64] = np.subtract(scores, most, dtype=np.float64)
    np.exp(out, out=out)
    out /= out.sum(axis=-1, keepdims=True)
    return out


def iou(box: Floats, boxes: Floats) -> npt.NDArray[np.float64]:
    """Intersection over union of x1 y1 x2 y2 `box` [4] with `boxes` [P, 4]; 1 with itself."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    overlap = np.prod(np.clip(high - low, 0, None), axis=1, dtype=np.float64)
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1, dtype=np.float64)
    area = float(np.prod(np.clip(box[2:] - box[:2], 0, None)))
    out: npt.NDArray[np.float64] = overlap / np.maximum(area + areas - overlap, 1e-12)
    out[np.all(boxes == box, axis=1)] = 1.0  # also where the box is empty
    return out
