"""Chooses ids, decides whether a thing is there, and points at its place.

The guide of one answer: generate() asks it for each id, and after `<box>` or `<point>`, when the
bundle has a region head, for the place. It keeps the probabilities that the confidence is made of.
A model of another codec than edge_mm only speaks: its guide chooses, and remembers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edge_mm_runtime import confidence
from edge_mm_runtime.bundle import Grounding
from edge_mm_runtime.decoder import Position
from edge_mm_runtime.grounding import Parsed, quantise
from edge_mm_runtime.sampling import Pick, greedy
from edge_mm_runtime.spoken import Choice, located
from edge_mm_runtime.vocabulary import Tags, Vocabulary


class Regions(NamedTuple):
    """What the vision graph says about the places of one frame, in unit coordinates."""

    keys: npt.NDArray[np.float32]  # [P, K]
    boxes: npt.NDArray[np.float32]  # [P, 6]: x1 y1 x2 y2, point x y


class Evidence(NamedTuple):
    """What is known about one located thing beside its text."""

    confidence: float
    place: npt.NDArray[np.float32] | None  # [6] as in Regions.boxes; None without a region head


class GroundingGuide:
    """A generate.Guide for one answer about one frame; `pick` chooses among the allowed ids."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        grounding: Grounding,
        regions: Regions | None,
        pick: Pick = greedy,
    ) -> None:
        self._vocabulary = vocabulary
        self._tags = vocabulary.tags
        self._pick = pick
        self._grounding = grounding
        self._regions = regions
        self._locations = {token: index for index, token in enumerate(vocabulary.locations)}
        self._chosen = 1.0  # product of the probabilities of all choices
        self._not_none = 1.0  # 1 - p(<none>) at the start of the answer
        self._presence: dict[int, float] = {}  # by index of <ref> in the answer
        self._location: dict[int, float] = {}  # by index of a location that the model spoke
        self._choices: dict[int, Choice] = {}  # by index of every choice, of other codecs
        self._places: list[tuple[npt.NDArray[np.float32], float]] = []  # place and its mass

    def choose(self, logits: npt.NDArray[np.float32], index: int) -> int:
        """An allowed id; between `<ref>` and `<none>` the bundle's threshold decides."""
        stop = self._vocabulary.stop
        token = self._pick(logits)
        probabilities = confidence.softmax(logits)
        if self._tags is not None:
            token = self._choose_tag(self._tags, token, logits, probabilities, index)
        # An answer that ends is the same answer whichever stop id ends it.
        same = list(stop) if token in stop else [token]
        chosen = float(probabilities[same].sum())
        self._chosen *= chosen
        if self._tags is None:
            self._choices[index] = self._split(token, chosen, probabilities)
        return token

    def _choose_tag(
        self,
        tags: Tags,
        token: int,
        logits: npt.NDArray[np.float32],
        probabilities: npt.NDArray[np.float64],
        index: int,
    ) -> int:
        """The id as it was picked, or as the threshold decides; keeps how likely it was."""
        threshold = self._grounding.existence_threshold
        if index == 0:
            self._not_none = 1.0 - float(probabilities[tags.none])
            either = (tags.ref, tags.none)
            if threshold is not None and token in either and np.isfinite(logits[tags.ref]):
                there = confidence.presence(logits, tags.ref, [tags.none]) >= threshold
                token = tags.ref if there else tags.none
        if token == tags.ref:
            denying = [tags.none, *self._vocabulary.stop]
            self._presence[index] = confidence.presence(logits, tags.ref, denying)
        elif token in self._locations:
            self._location[index] = float(probabilities[token])
        return token

    def _split(self, token: int, chosen: float, probabilities: npt.NDArray[np.float64]) -> Choice:
        if token not in self._locations:
            return Choice(chosen, chosen)
        among = float(probabilities[list(self._vocabulary.locations)].sum())
        return Choice(among, chosen / among)

    def points_after(self, token: int) -> bool:
        """Whether the region head says what follows this id."""
        tags = self._tags
        return self._regions is not None and tags is not None and token in (tags.box, tags.point)

    def point(self, token: int, position: Position) -> list[int]:
        """The location ids of the pointed place and the closing tag."""
        tags, locations = self._tags, self._vocabulary.locations
        if self._regions is None or tags is None or position.region_query is None:
            raise ValueError("there is no region head to point with")
        scores = self._regions.keys @ position.region_query
        place, mass = confidence.region_place(scores, self._regions.boxes)
        place = tidy(place)
        self._places.append((place, mass))
        spoken, closing = place[4:], tags.end_point
        if token == tags.box:
            spoken, closing = place[:4], tags.end_box
        bins = self._grounding.bins
        return [*(locations[quantise(float(value), bins)] for value in spoken), closing]

    def answer_confidence(self) -> float:
        """Of the answer as a whole, once its end was chosen: what words are worth."""
        scaling = self._grounding.confidence
        temperature = None if scaling is None else scaling.words_temperature
        return confidence.calibrate(min(1.0, self._chosen), temperature)

    def evidence(
        self, ids: Sequence[int], parsed: Parsed | None = None, tokenizer: Tokenizer | None = None
    ) -> list[Evidence]:
        """One for each complete place of the answer `ids`, in order.

        Codecs other than edge_mm need what was parsed from the decoded ids, and the tokenizer.
        """
        v = self._tags
        scaling = self._grounding.confidence
        temperature = None if scaling is None else scaling.temperature
        out: list[Evidence] = []
        if v is None:
            if parsed is None or tokenizer is None:
                raise ValueError("places in text need what was parsed, and the tokenizer")
            sure = located(ids, self._choices, parsed.spans, tokenizer)
            return [Evidence(confidence.calibrate(one, temperature), None) for one in sure]
        there = 1.0
        for index, token in enumerate(ids):
            if token == v.ref:
                # In steps <ref> has no alternative; what was decided at the start counts.
                there = self._presence.get(index, self._not_none)
            elif token in (v.end_box, v.end_point):
                place, mass = None, 0.0
                if self._regions is not None:
                    place, mass = self._places[len(out)]
                else:
                    first = index - (4 if token == v.end_box else 2)
                    mass = confidence.token_mass(
                        [self._location.get(i, 1.0) for i in range(first, index)]
                    )
                out.append(Evidence(confidence.calibrate(there * mass, temperature), place))
        return out


def tidy(place: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A row of region_boxes inside the picture, its corners in order."""
    x1, y1, x2, y2, x, y = np.clip(place, 0.0, 1.0)
    return np.array([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2), x, y], np.float32)
