"""Codec `molmo`: points in percent of the picture's sides, in XML.

    <point x="10.5" y="20.1" alt="red cup">red cup</point>
    <points x1="10.5" y1="20.1" x2="30.0" y2="40.0" alt="cups">cups</points>

Numbers have one decimal; a point of more than 100 is invalid, as in the model card's own reader.
Source: arXiv:2409.17146 (PixMo-Points) and the model card of Molmo-7B-D-0924. "Not in view" is
"There are none.", as its training data say it. Boxes are not known to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from edge_mm_runtime.codecs.lark import LABEL, Kind, Spelling
from edge_mm_runtime.codecs.mention import (
    Mention,
    Place,
    check_label,
    from_grid,
    named,
    say,
    to_grid,
)
from edge_mm_runtime.grounding import Parsed, Point, Region

STEPS = 1000  # a tenth of a percent
NONE = "There are none."
MOST = 20  # points of one thing that the grammar lets through

_NUMBER = r'"\s*(\d{1,3}(?:\.\d{1,6})?)\s*"'
_PAIR = re.compile(rf"x\d*={_NUMBER}\s+y\d*={_NUMBER}", re.ASCII)
_MENTION = re.compile(
    rf"<points?\s+((?:{_PAIR.pattern}\s*)+)(?:alt=\"([^\"<>]*)\"\s*)?>([^<]*)</points?>", re.ASCII
)
TAGS = re.compile(r"</?points?\b")


def format_objects(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects with points -> text; a label has no `<`, `>` and `"`."""
    return " ".join(_format(item) for item in objects) or NONE


def parse(text: str, width: int, height: int) -> Parsed:
    """Text -> what it says."""
    found = (
        Mention(*match.span(), named(match[4] or match[5]), _places(match))
        for match in _MENTION.finditer(text)
    )
    parsed = say(text, [mention for mention in found if mention.places], TAGS, ",;")
    invalid = len(_PAIR.findall(text)) > len(parsed.objects)
    return msgspec.structs.replace(parsed, malformed=parsed.malformed or invalid)


def grammar(kind: Kind, spelling: Spelling) -> str:
    """One thing with one point or several, or that there are none."""
    several = ""
    for index in range(MOST, 1, -1):
        pair = rf'" x{index}=\"" NUMBER "\" y{index}=\"" NUMBER "\""'
        several = f"{pair} ({several})?" if several else pair
    return rf"""
start: " "? (point | points) | " "? "{NONE}"
point: "<point x=\"" NUMBER "\" y=\"" NUMBER "\"" alt ">" LABEL "</point>"
points: "<points x1=\"" NUMBER "\" y1=\"" NUMBER "\"" {several} alt ">" LABEL "</points>"
alt: " alt=\"" LABEL "\""
NUMBER: /(100\.0|[1-9]?[0-9]\.[0-9])/
LABEL: /{LABEL}/
"""


def _format(item: Region) -> str:
    if item.point is None or item.box is not None:
        raise ValueError(f"molmo says points, {item.label!r} has none or a box")
    label = check_label(item.label, '<>"')
    x, y = (f"{to_grid(value, STEPS) / 10:.1f}" for value in item.point)
    return f'<point x="{x}" y="{y}" alt="{label}">{label}</point>'


def _places(mention: re.Match[str]) -> list[Place]:
    pairs = _PAIR.finditer(mention.string, *mention.span(1))
    points = [(pair.span(), _point(pair)) for pair in pairs]
    return [Place(*span, None, point) for span, point in points if point is not None]


def _point(pair: re.Match[str]) -> Point | None:
    percent = [float(digits) for digits in pair.groups()]
    if max(percent) > 100:
        return None
    return from_grid(percent[0], 100), from_grid(percent[1], 100)
