"""Codec `florence2`: a label and four location tokens, x1 y1 x2 y2 in 1000 bins.

    red cup<loc_12><loc_345><loc_678><loc_901>blue bowl<loc_..>x4

Further boxes of the same label follow without it. A bin is decoded to its middle. Source:
arXiv:2311.06242 and `Florence2PostProcessor` (quantize, dequantize, parse_description_with_bboxes)
of transformers' processing_florence2.py. The eight tokens of its tasks `ocr_with_region` are not
boxes and not read here. "Not in view" has no published form: `none`.
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
    named,
    ordered,
    say,
)
from edge_mm_runtime.grounding import Parsed, Region, dequantise, quantise

BINS = 1000
LOCATIONS = tuple(f"<loc_{index}>" for index in range(BINS))

_BOX = re.compile(r"\s*".join([r"<loc_(\d{1,3})>"] * 4), re.ASCII)
_MENTION = re.compile(rf"(?<![^<>])([^<>]*)((?:{_BOX.pattern}\s*)+)", re.ASCII)
TAGS = re.compile(r"<loc_\d+>")


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
    location = spelling.rule("loc", LOCATIONS, r"<loc_([1-9][0-9]{0,2}|0)>")
    return f"""
start: mention+ | "{NONE}"
mention: LABEL (loc loc loc loc)+
{location}
LABEL: /{LABEL}/
"""


def _format(item: Region) -> str:
    spoken = (LOCATIONS[quantise(value, BINS)] for value in box_of(item, "florence2"))
    return check_label(item.label) + "".join(spoken)


def _places(mention: re.Match[str]) -> list[Place]:
    return [
        Place(*box.span(), ordered(dequantise(int(digits), BINS) for digits in box.groups()))
        for box in _BOX.finditer(mention.string, *mention.span(2))
    ]
