"""Codec `paligemma`: four location tokens, y first, then the label.

    <loc0256><loc0000><loc0900><loc1023> red cup ; <locYYYY><locXXXX><locYYYY><locXXXX> bowl

Bin k of 1024 stands for k / 1023 of a side: `round(x * 1023)` in big_vision/pp/proj/paligemma/
segmentation.py of github.com/google-research/big_vision, which also gives the order y1 x1 y2 x2
(arXiv:2407.07726, appendix). The mask tokens `<segNNN>` after a place are read over. The model says
nothing at all when nothing is there; `none` is the same in words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_mm_runtime.codecs.lark import LABEL, Kind, Spelling
from edge_mm_runtime.codecs.mention import (
    NONE,
    Mention,
    Place,
    box_of,
    check_label,
    from_grid,
    named,
    ordered,
    say,
    to_grid,
)
from edge_mm_runtime.grounding import Parsed, Region

STEPS = 1023
LOCATIONS = tuple(f"<loc{index:04d}>" for index in range(STEPS + 1))

_LOCATION = re.compile(r"<loc(0\d{3}|10[01]\d|102[0-3])>", re.ASCII)
_MENTION = re.compile(rf"((?:{_LOCATION.pattern}\s*){{4}})(?:<seg\d{{3}}>\s*)*([^<;]*)", re.ASCII)
TAGS = re.compile(r"<(?:loc|seg)\d+>")


def format_objects(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects with boxes -> text; a label has no `<`, `>` and `;`."""
    return " ; ".join(_format(item) for item in objects) or NONE


def parse(text: str, width: int, height: int) -> Parsed:
    """Text -> what it says."""
    mentions = [_mention(match) for match in _MENTION.finditer(text)]
    return say(text, mentions, TAGS, ";")


def grammar(kind: Kind, spelling: Spelling) -> str:
    """Boxes with names; nothing; or `none`."""
    location = spelling.rule("loc", LOCATIONS, r"<loc(0[0-9]{3}|10[01][0-9]|102[0-3])>")
    # A name and the separator are one word: a lexer cannot take back the space that it gave a name.
    return f"""
start: "" | (place MORE)* place LAST | "{NONE}"
place: loc loc loc loc
{location}
MORE: / ?{LABEL} ?; ?/
LAST: / ?{LABEL}/
"""


def _format(item: Region) -> str:
    x1, y1, x2, y2 = (to_grid(value, STEPS) for value in box_of(item, "paligemma"))
    spoken = "".join(LOCATIONS[index] for index in (y1, x1, y2, x2))
    return f"{spoken} {check_label(item.label, '<>;')}"


def _mention(match: re.Match[str]) -> Mention:
    end = match.start() + len(match[0].rstrip())
    return Mention(match.start(), end, named(match[3]), [_place(match)])


def _place(match: re.Match[str]) -> Place:
    y1, x1, y2, x2 = (from_grid(int(digits), STEPS) for digits in _LOCATION.findall(match[1]))
    end = match.start(1) + len(match[1].rstrip())
    return Place(match.start(1), end, ordered((x1, y1, x2, y2)))
