"""Hard negatives: the wrong keys that look most right, and captions that are almost true."""

from __future__ import annotations

import re
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_mm.words import COLORS, KINDS, plural

NO_ROW = -1

_SINGULAR = {form: kind for kind in KINDS for form in (kind, plural(kind))}
_PHRASE = re.compile(rf"\b(an? )?({'|'.join(COLORS)}) ({'|'.join(_SINGULAR)})\b")


@torch.no_grad()
def hardest(similarity: Tensor, k: int, same: Tensor) -> Tensor:
    """The k most similar wrong columns of each row, most similar first -> indices [B,k].

    similarity [B,B] of queries (rows) and keys (columns); row i belongs to column i. `same` bool
    [B,B]: column j is right for row i too, such as an equal caption. A row with fewer than k wrong
    columns is filled up with NO_ROW (-1): `negative_mask=indices >= 0` of info_nce.
    """
    own = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    wrong = similarity.float().masked_fill(same | own, float("-inf"))
    value, index = wrong.topk(min(k, len(wrong)), dim=1)
    index = index.masked_fill(value == float("-inf"), NO_ROW)
    return F.pad(index, (0, k - index.shape[1]), value=NO_ROW)


def swap_attributes(text: str) -> str | None:
    """A caption with the colours of two of its objects swapped, so that it is no longer true.

    "a red cup and an orange can" -> "an orange cup and a red can". None where no swap makes a
    caption of other objects: the colours or the kinds are equal, or the text names fewer than two.
    """
    phrases = list(_PHRASE.finditer(text))
    named = {(match[2], _SINGULAR[match[3]]) for match in phrases}
    for first, second in combinations(phrases, 2):
        swapped = {(second[2], _SINGULAR[first[3]]), (first[2], _SINGULAR[second[3]])}
        if swapped.isdisjoint(named):
            return (
                text[: first.start()]
                + _recolored(first, second[2])
                + text[first.end() : second.start()]
                + _recolored(second, first[2])
                + text[second.end() :]
            )
    return None


def _recolored(phrase: re.Match[str], color: str) -> str:
    """The article goes with the colour: "a orange cup" would give the negative away."""
    article = ("an " if color[0] in "aeiou" else "a ") if phrase[1] else ""
    return f"{article}{color} {phrase[3]}"
