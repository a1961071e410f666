"""Codec `internvl`: `<ref>` and `<box>` tags, places in thousandths of the picture's sides.

    <ref>red cup</ref><box>[[x1, y1, x2, y2]]</box>

Several boxes of one name are `[[..], [..]]`. Source: "Grounding detection" of the InternVL
documentation (internvl.readthedocs.io, chat data format). "Not in view" has no published form:
`none`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edge_mm_runtime.codecs.lark import LABEL, THOUSAND, Kind, Spelling
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

STEPS = 1000

_ROW = re.compile(r"\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*,\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]")
_MENTION = re.compile(
    rf"(?:<ref>([^<]*)</ref>\s*)?<box>\s*(\[\s*(?:{_ROW.pattern}\s*(?:,\s*)?)+\])\s*</box>"
)
TAGS = re.compile(r"</?(?:ref|box)>")


def format_objects(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects with boxes -> text; a label has no `<` and `>`."""
    return "".join(_format(item) for item in objects) or NONE


def parse(text: str, width: int, height: int) -> Parsed:
    """Text -> what it says. A place outside the picture is moved to its edge."""
    mentions = [
        Mention(*match.span(), named(match[1]), _places(match)) for match in _MENTION.finditer(text)
    ]
    return say(text, mentions, TAGS, ",;")


def grammar(kind: Kind, spelling: Spelling) -> str:
    """One mention or more, or `none`."""
    numbers = ' ", " '.join(["NUMBER"] * 4)
    return f"""
start: mention (SEPARATOR? mention)* | "{NONE}"
mention: {spelling.tag("<ref>")} LABEL {spelling.tag("</ref>")} place
place: {spelling.tag("<box>")} "[" row (", " row)* "]" {spelling.tag("</box>")}
row: "[" {numbers} "]"
SEPARATOR: /[,;]?[ \\n]/
NUMBER: {THOUSAND}
LABEL: /{LABEL}/
"""


def _format(item: Region) -> str:
    row = [to_grid(value, STEPS) for value in box_of(item, "internvl")]
    return f"<ref>{check_label(item.label)}</ref><box>[{row}]</box>"


def _places(mention: re.Match[str]) -> list[Place]:
    return [
        Place(*row.span(), ordered(from_grid(int(digits), STEPS) for digits in row.groups()))
        for row in _ROW.finditer(mention.string, mention.start(2) + 1, mention.end(2))
    ]
