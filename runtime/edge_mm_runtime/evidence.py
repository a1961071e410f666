"""How much an answer depends on the picture: the same answer, without the picture.

The picture is blanked to the mean colour and the decoder is led through the very ids that it
answered, so that at each choice its probability of going the same way can be read off. With p the
probability of the whole answer (every choice of an id, and for each pointed place the mass of the
region head's cells that agree with it):

    visual_evidence = max(0, 1 - p(answer | blank) / p(answer | picture))

0: the answer is as likely without the picture, which was not used; 1: it would not have been given
without it. A long answer has many choices, and is near 1 as soon as some of them depend on the
picture. The text alone as the cause of an answer: Goyal et al., arXiv 1612.00837.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.confidence import AGREES_IOU, iou, region_place, softmax
from edge_mm_runtime.decoder import Position
from edge_mm_runtime.generate import Guide
from edge_mm_runtime.guide import Regions

LEAST = 1e-12  # of a probability, so that its logarithm is finite

Logits = npt.NDArray[np.float32]


class Witness:
    """Goes along with the guide of an answer, and remembers each choice and how likely it was."""

    def __init__(self, guide: Guide, regions: Regions | None, stop_ids: Collection[int]) -> None:
        self.stop_ids = list(stop_ids)
        self.chosen: list[int] = []
        self.pointed: list[tuple[Sequence[int], npt.NDArray[np.float32]]] = []  # ids, place [6]
        self.log_probability = 0.0
        self._guide = guide
        self._regions = regions

    def choose(self, logits: Logits, index: int) -> int:
        """What the guide chooses."""
        token = self._guide.choose(logits, index)
        self.chosen.append(token)
        self.log_probability += log_choice(logits, token, self.stop_ids)
        return token

    def points_after(self, token: int) -> bool:
        """What the guide says."""
        return self._guide.points_after(token)

    def point(self, token: int, position: Position) -> Sequence[int]:
        """Where the guide points."""
        ids = self._guide.point(token, position)
        scores, boxes = _cells(self._regions, position)
        place, _ = region_place(scores, boxes)
        self.pointed.append((ids, place))
        self.log_probability += log_place(scores, boxes, place)
        return ids


class Replay:
    """A guide that repeats what a witness saw, over the regions of another picture."""

    def __init__(self, witness: Witness, regions: Regions | None) -> None:
        self.log_probability = 0.0
        self._chosen = iter(witness.chosen)
        self._pointed = iter(witness.pointed)
        self._witness = witness
        self._regions = regions

    def choose(self, logits: Logits, index: int) -> int:
        """The id that was chosen here."""
        token = next(self._chosen)
        self.log_probability += log_choice(logits, token, self._witness.stop_ids)
        return token

    def points_after(self, token: int) -> bool:
        """What the guide said."""
        return self._witness.points_after(token)

    def point(self, token: int, position: Position) -> Sequence[int]:
        """Where the guide pointed here."""
        ids, place = next(self._pointed)
        self.log_probability += log_place(*_cells(self._regions, position), place)
        return ids


def visual_evidence(witness: Witness, replay: Replay) -> float:
    """0..1, see the top of this file; of a whole answer and its whole repetition."""
    return 1.0 - math.exp(min(0.0, replay.log_probability - witness.log_probability))


def log_choice(logits: Logits, token: int, stop_ids: Sequence[int]) -> float:
    """Log-probability of an id, [V] being -inf where not allowed; all stop ids are one."""
    same = stop_ids if token in stop_ids else [token]
    return math.log(max(LEAST, float(softmax(logits)[same].sum())))


def log_place(
    scores: npt.NDArray[np.float32],
    boxes: npt.NDArray[np.float32],
    place: npt.NDArray[np.float32],
) -> float:
    """Log of the mass of the cells whose box agrees with a place: [P], [P, 6] and [6]."""
    agree = iou(place[:4], boxes[:, :4]) >= AGREES_IOU
    return math.log(max(LEAST, float(softmax(scores)[agree].sum())))


def _cells(
    regions: Regions | None, position: Position
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The region head's scores [P] and places [P, 6]."""
    if regions is None or position.region_query is None:
        raise ValueError("there is no region head to point with")
    return regions.keys @ position.region_query, regions.boxes
