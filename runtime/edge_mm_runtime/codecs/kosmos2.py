"""Codec `kosmos2`: a phrase and the patches of its upper left and lower right corner.

    <phrase>red cup</phrase><object><patch_index_0044><patch_index_0863></object>

Patches are those of a 32 x 32 grid, numbered by row; further boxes of the same phrase follow after
`</delimiter_of_multi_objects/>`. A corner is the middle of its patch; a box of one row or column of
patches is all of them. Source: arXiv:2306.14824, and `coordinate_to_patch_index` and
`patch_index_to_coordinate` of transformers' processing_kosmos2.py. "Not in view" has no published
form: `none`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from edge_mm_runtime.codecs.lark import LABEL, Kind, Spelling
from edge_mm_runtime.codecs.mention import (
    NONE,
    Mention,
    Place,
    box_of,
    check_label,
    named,
    ordered,
    say,
)
from edge_mm_runtime.grounding import Box, Parsed, Region

SIDE = 32
LOCATIONS = tuple(f"<patch_index_{index:04d}>" for index in range(SIDE * SIDE))
DELIMITER = "</delimiter_of_multi_objects/>"

_PATCH = r"<patch_index_(0\d{3}|10[01]\d|102[0-3])>"
_PAIR = re.compile(rf"{_PATCH}\s*{_PATCH}", re.ASCII)
_MENTION = re.compile(
    rf"(?:<phrase>([^<]*)</phrase>\s*)?<object>\s*((?:{_PAIR.pattern}\s*(?:{DELIMITER}\s*)?)+)"
    r"</object>",
    re.ASCII,
)
TAGS = re.compile(r"</?(?:phrase|object)>|<patch_index_\d+>|</delimiter_of_multi_objects/>")


def format_objects(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects with boxes -> text; a label has no `<` and `>`."""
    return "".join(_format(item) for item in objects) or NONE


def parse(text: str, width: int, height: int) -> Parsed:
    """Text -> what it says."""
    mentions = [
        Mention(*match.span(), named(match[1]), _places(match)) for match in _MENTION.finditer(text)
    ]
    return say(text, mentions, TAGS, ",;")


def grammar(kind: Kind, spelling: Spelling) -> str:
    """One mention or more, or `none`."""
    patch = spelling.rule("patch", LOCATIONS, r"<patch_index_(0[0-9]{3}|10[01][0-9]|102[0-3])>")
    tag = spelling.tag
    return f"""
start: mention+ | "{NONE}"
mention: {tag("<phrase>")} NAME {tag("</phrase>")} object
object: {tag("<object>")} pair ({tag(DELIMITER)} pair)* {tag("</object>")}
pair: patch patch
{patch}
NAME: / ?{LABEL}/
"""


def patches(box: Box) -> tuple[int, int]:
    """x1 y1 x2 y2 -> the patches of its two corners."""
    x1, y1, x2, y2 = box
    left, upper = (min(SIDE - 1, max(0, math.floor(value * SIDE))) for value in (x1, y1))
    right, lower = (min(SIDE - 1, math.ceil(value * SIDE - 1)) for value in (x2, y2))
    # A box without an inside has its far corner on the near patch's edge.
    return upper * SIDE + left, max(upper, lower) * SIDE + max(left, right)


def _format(item: Region) -> str:
    first, last = patches(ordered(box_of(item, "kosmos2")))
    places = f"<object>{LOCATIONS[first]}{LOCATIONS[last]}</object>"
    return f"<phrase>{check_label(item.label)}</phrase>{places}"


def _places(mention: re.Match[str]) -> list[Place]:
    return [
        Place(*pair.span(), _box(int(pair[1]), int(pair[2])))
        for pair in _PAIR.finditer(mention.string, *mention.span(2))
    ]


def _box(first: int, last: int) -> Box:
    (upper, left), (lower, right) = divmod(first, SIDE), divmod(last, SIDE)
    if left == right or upper == lower:
        edges = (left, upper, right + 1, lower + 1)
        if right < left or lower < upper:
            edges = (right, lower, left + 1, upper + 1)
        x1, y1, x2, y2 = edges
        return x1 / SIDE, y1 / SIDE, x2 / SIDE, y2 / SIDE
    return ordered((place + 0.5) / SIDE for place in (left, upper, right, lower))
