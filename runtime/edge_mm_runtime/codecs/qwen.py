"""Codecs `qwen2_5_vl` and `qwen3_vl`: JSON lists of `bbox_2d` or `point_2d` with a `label`.

    [{"bbox_2d": [x1, y1, x2, y2], "label": "red cup"}, {"point_2d": [x, y], "label": "bowl"}]

in or out of a ```json fence. Qwen2.5-VL's numbers are pixels of the resized picture
(arXiv:2502.13923, section 2.2.2), Qwen3-VL's are thousandths of its sides, 0..1000 (the notebook
cookbooks/2d_grounding.ipynb of github.com/QwenLM/Qwen3-VL). "Not in view" is the empty list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from edge_mm_runtime.codecs.lark import LABEL, THOUSAND, Kind, Spelling
from edge_mm_runtime.codecs.mention import (
    Mention,
    Place,
    from_grid,
    labels,
    named,
    ordered,
    outside,
    placed,
    to_grid,
    without_places,
)
from edge_mm_runtime.grounding import Parsed, Region

THOUSANDTHS = 1000

_MOST = 1e6  # beyond any picture; neither NaN nor an integer past all floats is below it
_KEYS = {"bbox_2d": 4, "point_2d": 2}
_OBJECT = re.compile(r'\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\}', re.DOTALL)
_NUMBERS = re.compile(r'"(?:bbox_2d|point_2d)"\s*:\s*(\[[^\]]*\])')
_TRIED = re.compile(r"bbox_2d|point_2d")
_FENCE = re.compile(r"```(?:json)?")


def format_pixels(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects -> `qwen2_5_vl` text; width and height of the model input in pixels."""
    return _format(objects, width, height)


def parse_pixels(text: str, width: int, height: int) -> Parsed:
    """`qwen2_5_vl` text -> what it says. A place outside the picture is moved to its edge."""
    return _parse(text, width, height)


def format_thousandths(objects: Sequence[Region], width: int, height: int) -> str:
    """Objects -> `qwen3_vl` text, whatever the size of the picture."""
    return _format(objects, THOUSANDTHS, THOUSANDTHS)


def parse_thousandths(text: str, width: int, height: int) -> Parsed:
    """`qwen3_vl` text -> what it says. A place outside the picture is moved to its edge."""
    return _parse(text, THOUSANDTHS, THOUSANDTHS)


def grammar_pixels(kind: Kind, spelling: Spelling) -> str:
    """The list in pixels of at most four digits."""
    return _grammar(kind, "/[1-9][0-9]{0,3}|0/")


def grammar_thousandths(kind: Kind, spelling: Spelling) -> str:
    """The list in thousandths."""
    return _grammar(kind, THOUSAND)


def _format(objects: Sequence[Region], x_steps: int, y_steps: int) -> str:
    rows = []
    for item in objects:
        if not item.label.strip() or (item.box is None) == (item.point is None):
            raise ValueError(f"{item.label!r} needs a name and a box or a point, and not both")
        key, values = ("bbox_2d", item.box) if item.box is not None else ("point_2d", item.point)
        steps = (x_steps, y_steps) * 2
        spoken = [to_grid(v, step) for v, step in zip(values or (), steps, strict=False)]
        rows.append(json.dumps({key: spoken, "label": item.label.strip()}, ensure_ascii=False))
    inside = "\n\t" + ",\n\t".join(rows) + "\n" if rows else ""
    return f"```json\n[{inside}]\n```"


def _parse(text: str, x_steps: int, y_steps: int) -> Parsed:
    found = (_mention(match, x_steps, y_steps) for match in _OBJECT.finditer(text))
    mentions = [mention for mention in found if mention is not None]
    rest = _FENCE.sub(" ", outside(text, mentions))
    words = " ".join(re.sub(r"[][{},]", " ", rest).split())
    signs = re.sub(r"[^][{}]", "", rest)
    malformed = _TRIED.search(rest) is not None
    if not mentions:
        if signs == "[]" and not words:
            return Parsed(text="not in view", found=False)
        return without_places(text, malformed)
    objects, spans = placed(mentions)
    malformed |= signs not in ("", "[]")
    return Parsed(
        text=labels(mentions) if malformed else f"{words} {labels(mentions)}".strip(),
        objects=objects,
        found=True,
        malformed=malformed,
        spans=spans,
    )


def _mention(match: re.Match[str], x_steps: int, y_steps: int) -> Mention | None:
    """One object of the list; None when it names no place."""
    try:
        said: dict[str, Any] = json.loads(match[0], strict=False)
    except (ValueError, RecursionError):
        return None
    key = next((key for key in _KEYS if key in said), None)
    numbers = _NUMBERS.search(match[0])
    if key is None or numbers is None or not _are_numbers(said[key], _KEYS[key]):
        return None
    start, end = (match.start() + edge for edge in numbers.span(1))
    unit = [from_grid(v, step) for v, step in zip(said[key], (x_steps, y_steps) * 2, strict=False)]
    name = said.get("label", said.get("text_content"))
    label = named(name if isinstance(name, str) else None)
    if len(unit) == 4:
        return Mention(*match.span(), label, [Place(start, end, ordered(unit))])
    return Mention(*match.span(), label, [Place(start, end, None, (unit[0], unit[1]))])


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and -_MOST < v < _MOST for v in values)
    )


def _grammar(kind: Kind, number: str) -> str:
    key, count = ("bbox_2d", 4) if kind == "box" else ("point_2d", 2)
    numbers = ' ", " '.join(["NUMBER"] * count)
    return rf"""
start: "```json\n[" ("\n\t" objects "\n")? "]\n```"
objects: object (",\n\t" object)*
object: "{{\"{key}\": [" {numbers} "], \"label\": " STRING "}}"
NUMBER: {number}
STRING: /"{LABEL}"/
"""
