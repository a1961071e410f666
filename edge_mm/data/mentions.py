"""Mentions: the noun phrases of a question, and the objects of the view that each one names.

The trainer asks the hidden state at the end of every mention where those objects are, so the
language model learns what its words refer to from each question, whatever the answer's type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge_mm.data.refer import Noun, find
from edge_mm.data.scenes import Seen
from edge_mm.words import ANY, COLORS, MEANINGS, SYNONYMS, plural


@dataclass(frozen=True, slots=True)
class Mention:
    """Where a noun phrase ends in the text, and the ids of all objects that it may mean."""

    end: int
    objects: tuple[int, ...]


def _spellings(words: Sequence[str]) -> dict[str, str]:
    """Every way to say each word -> the word."""
    return {said: word for word in words for said in (word, *SYNONYMS.get(word, ()))}


_SINGULAR = _spellings(list(MEANINGS))
_NOUNS = {**_SINGULAR, **{plural(said): word for said, word in _SINGULAR.items()}}
_COLORS = _spellings(COLORS)
_COLORED_ONLY = _spellings([ANY])  # bare, they mean nothing
_COLORED = {**_NOUNS, **_COLORED_ONLY, **{f"{word}s": ANY for word in _COLORED_ONLY}}


def _any(words: Sequence[str]) -> str:
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))


# "Can you see" is no can, and the box that somebody wants drawn is no box on the table.
_NO_CAN = r"can(?:'| (?:you|i|we|it|be|see|a)\b)"
_NO_BOX = r"box(?:es)? (?:of|around|each|every|all|the|for|on (?:each|every|all))\b"
_PHRASE = re.compile(
    rf"\b(?:(?P<color>{_any(list(_COLORS))}) (?P<colored>{_any(list(_COLORED))})"
    rf"|(?<!bounding )(?<!with a )(?<!with their )(?!{_NO_CAN}|{_NO_BOX})"
    rf"(?P<noun>{_any(list(_NOUNS))}))\b"
)


def mentions(text: str, view: Sequence[Seen]) -> list[Mention]:
    """The noun phrases of a text in their order; a mistyped one is not found."""
    found = []
    for match in _PHRASE.finditer(text.lower()):
        color = match["color"]
        word = _COLORED[match["colored"]] if color else _NOUNS[match["noun"]]
        noun = Noun(word, _COLORS[color] if color else None)
        found.append(Mention(match.end(), tuple(item.id for item in find(noun, view))))
    return found
