"""Codec `qwen2_vl`: tags of Qwen2-VL, places in thousandths of the picture's sides.

    <|object_ref_start|>red cup<|object_ref_end|><|box_start|>(x1,y1),(x2,y2)<|box_end|>

Several boxes may follow one name; a point is one pair. Source: arXiv:2409.12191, section 2.2.1
(Qwen-VL's format, arXiv:2308.12966, with tokens of its own). "Not in view" has no published form:
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
    check_label,
    from_grid,
    named,
    ordered,
    say,
    to_grid,
)
from edge_mm_runtime.grounding import Parsed, Region

STEPS = 1000
REF, END_REF = "<|object_ref_start|>", "<|object_ref_end|>"
BOX, END_BOX = "<|box_start|>", "<|box_end|>"

_PAIR = r"\((\d{1,5}),\s*(\d{1,5})\)"
_PLACE = re.compile(rf"<\|box_start\|>\s*({_PAIR}(?:,\s*{_PAIR})?)\s*<\|box_end\|>")
_MENTION = re.compile(
    rf"(?:<\|object_ref_start\|>([^<]*)<\|object_ref_end\|>\s*)?(?:{_PLACE.pattern}\s*)+"
)
TAGS = re.compile(r"<\|(?:object_ref|box)_(?:start|end)\|>")


def format_objects(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects -> text; a label has no `<` and `>`."""
    return "".join(_format(item) for item in objects) or NONE


def parse(text: str, width: int, height: int) -> Parsed:
    """Text -> what it says. A place outside the picture is moved to its edge."""
    mentions = [
        Mention(*match.span(), named(match[1]), [_place(part) for part in _places(match)])
        for match in _MENTION.finditer(text)
    ]
    return say(text, mentions, TAGS, ",;")


def grammar(kind: Kind, spelling: Spelling) -> str:
    """One mention or more, or `none`."""
    pair = '"(" NUMBER "," NUMBER ")"'
    places = f'{pair} "," {pair}' if kind == "box" else pair
    return f"""
start: mention+ | "{NONE}"
mention: {spelling.tag(REF)} LABEL {spelling.tag(END_REF)} place+
place: {spelling.tag(BOX)} {places} {spelling.tag(END_BOX)}
NUMBER: {THOUSAND}
LABEL: /{LABEL}/
"""


def _format(item: Region) -> str:
    values = item.box if item.box is not None else item.point
    if values is None or (item.box is None) == (item.point is None):
        raise ValueError(f"{item.label!r} needs a box or a point, and not both")
    spoken = [to_grid(value, STEPS) for value in values]
    pairs = ",".join(f"({x},{y})" for x, y in zip(spoken[::2], spoken[1::2], strict=True))
    return f"{REF}{check_label(item.label)}{END_REF}{BOX}{pairs}{END_BOX}"


def _places(mention: re.Match[str]) -> list[re.Match[str]]:
    return list(_PLACE.finditer(mention.string, *mention.span()))


def _place(match: re.Match[str]) -> Place:
    unit = [from_grid(int(digits), STEPS) for digits in match.groups()[1:] if digits is not None]
    if len(unit) == 4:
        return Place(*match.span(1), ordered(unit))
    return Place(*match.span(1), None, (unit[0], unit[1]))
