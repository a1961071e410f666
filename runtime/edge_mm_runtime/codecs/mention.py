"""What the codecs of other models share: from the places found in a text to what it says.

Each codec finds its mentions with a pattern of its own; `say` puts them together. Nothing here
raises: the texts are a model's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edge_mm_runtime.grounding import Box, Parsed, Point, Region, Span

UNNAMED = "object"
"""The label of a place that the model gave no name."""
NONE = "none"
"""What `format` says of nothing where a model has no published way to; it may not know the word."""
ABSENT = ("none", "there are none", "not in view", "not found")


class Place(NamedTuple):
    """A box or a point in unit coordinates; start and end are the characters of its numbers."""

    start: int
    end: int
    box: Box | None
    point: Point | None = None


class Mention(NamedTuple):
    """Characters start..end of a text: a thing and its places, at least one."""

    start: int
    end: int
    label: str
    places: Sequence[Place]


def say(text: str, mentions: Sequence[Mention], tags: re.Pattern[str], between: str = "") -> Parsed:
    """What a text with these mentions says, which are in its order.

    tags     what only places are made of: the text is malformed where the mentions leave some
    between  characters that may stand between mentions without being words
    """
    rest = outside(text, mentions)
    malformed = tags.search(rest) is not None
    if not mentions:
        return without_places(rest, malformed)
    spoken = labels(mentions)
    if rest.strip(f"{between} \t\r\n"):
        spoken = plain(outside(text, mentions, keep_labels=True))
    objects, spans = placed(mentions)
    return Parsed(text=spoken, objects=objects, found=True, malformed=malformed, spans=spans)


def without_places(text: str, malformed: bool) -> Parsed:
    """What a text without a place says: that nothing is there, or free words."""
    spoken = plain(text) if "<" in text else text.strip()
    if spoken.lower().rstrip(".") in ABSENT and not malformed:
        return Parsed(text="not in view", found=False)
    return Parsed(text=spoken, malformed=malformed)


def placed(mentions: Sequence[Mention]) -> tuple[tuple[Region, ...], tuple[Span, ...]]:
    """`objects` and `spans` of mentions: one of each for every place."""
    objects, spans = [], []
    for mention in mentions:
        starts = [mention.start, *(place.end for place in mention.places[:-1])]
        ends = [*starts[1:], mention.end]
        for start, end, place in zip(starts, ends, mention.places, strict=True):
            objects.append(Region(mention.label, place.box, place.point))
            spans.append(Span(start, end, place.start, place.end))
    return tuple(objects), tuple(spans)


def labels(mentions: Sequence[Mention]) -> str:
    """The names of the things, for people."""
    return ", ".join(mention.label for mention in mentions)


def outside(text: str, mentions: Sequence[Mention], keep_labels: bool = False) -> str:
    """The text without its mentions and control tokens, or with their labels only."""
    parts, end = [], 0
    for mention in mentions:
        parts += [text[end : mention.start], f" {mention.label} " if keep_labels else " "]
        end = mention.end
    return _CONTROL.sub(" ", "".join([*parts, text[end:]]))


def plain(text: str) -> str:
    """Text without tags, single spaces."""
    return " ".join(_ANY_TAG.sub(" ", text).split())


def named(label: str | None) -> str:
    """A label as it was said, or that of a thing without a name."""
    return plain(label or "") or UNNAMED


def check_label(label: str, forbidden: str = "<>") -> str:
    """The label, or ValueError when it is blank or cannot be told from the codec's own signs."""
    if not label.strip() or any(sign in label for sign in forbidden):
        raise ValueError(f"a label is text without {' '.join(forbidden)}, this is {label!r}")
    return label.strip()


def box_of(region: Region, codec: str) -> Box:
    """The region's box, or ValueError: the codec says boxes only."""
    if region.box is None or region.point is not None:
        raise ValueError(f"{codec} says boxes, {region.label!r} has none or a point")
    return region.box


def to_grid(value: float, steps: float) -> int:
    """Unit coordinate -> the nearest of the grid lines 0..steps."""
    return int(min(1.0, max(0.0, value)) * steps + 0.5)


def from_grid(value: float, steps: float) -> float:
    """Grid line -> unit coordinate, inside the picture."""
    return min(1.0, max(0.0, value / steps))


def ordered(values: Iterable[float]) -> Box:
    """Two corners x y x y in any order -> x1 y1 x2 y2."""
    x1, y1, x2, y2 = values
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


_CONTROL = re.compile(r"</?s>|<(?:pad|bos|eos|unk)>|<\|(?:im_end|im_start|endoftext)\|>")
_ANY_TAG = re.compile(r"</?[A-Za-z|][^<>]*>")
