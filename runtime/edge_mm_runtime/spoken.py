"""How sure a model was of the places that it said in text, from the probabilities of its ids."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from edge_mm_runtime.confidence import token_mass
from edge_mm_runtime.grounding import Span


class Choice(NamedTuple):
    """The probability of a chosen id, split where it was a location token.

    on     that the answer went on so: of the id; of a location token, that of all location tokens
    place  that of this place: of the id; of a location token, its share among all of them
    """

    on: float
    place: float


SURE = Choice(1.0, 1.0)
"""Of an id that had no alternative."""


def located(
    ids: Sequence[int],
    choices: Mapping[int, Choice],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
) -> list[float]:
    """0..1 for each place: p(the answer went on to it) x p(it is this place).

    The first is the product over the ids after the object before (or from the beginning) to the
    one that the object begins with, where the answer could have ended, or been `[]`; the second is
    the geometric mean over the ids that its digits or location tokens are in. How the thing is
    called is in neither, but where its name is what it begins with. `choices` are by index in
    `ids`, `spans` characters of the decoded ids.
    """
    ends = [len(tokenizer.decode(ids[: n + 1], skip_special_tokens=False)) for n in range(len(ids))]
    text = tokenizer.decode(list(ids), skip_special_tokens=False)
    sure = []
    begin = 0
    for span in spans:
        first = _token_at(ends, span.start)
        on = math.prod(choices.get(index, SURE).on for index in range(begin, first + 1))
        numbers = [
            choices.get(index, SURE).place
            for index in range(
                _token_at(ends, span.place_start), _token_at(ends, span.place_end - 1) + 1
            )
            if any(sign.isdigit() for sign in text[ends[index - 1] if index else 0 : ends[index]])
        ]
        sure.append(min(1.0, on * token_mass(numbers or [1.0])))
        begin = _token_at(ends, span.end - 1) + 1
    return sure


def _token_at(ends: Sequence[int], character: int) -> int:
    """Index of the id that a character of the text is in."""
    return next((index for index, end in enumerate(ends) if end > character), len(ends) - 1)
