"""The `edge_mm` grounding codec: objects and steps <-> the text that the model speaks.

Pure functions on unit coordinates (0..1 of the model input, see image.Placement.to_unit), shared
by the trainer, which renders its samples with `format_*`, and the runtime, which reads answers
with `parse`. Locations are bins: with 128 bins `<loc012>` covers 12/128 .. 13/128 and is decoded
to its centre.

    locate  <ref>red cup</ref><box><loc012><loc034><loc056><loc078></box>   x1 y1 x2 y2
    point   <ref>red cup</ref><point><loc012><loc034></point>
    steps   pick <ref>red cup</ref><box>..</box>; place left of <ref>blue bowl</ref><box>..</box>
    absent  <none>
    free    anything without tags
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

DEFAULT_BINS = 128
NONE = "<none>"
ACTIONS = ("pick", "place", "push", "point to")
RELATIONS = ("left of", "right of", "in front of", "behind", "in", "on", "next to")
ACTIONS_WITH_RELATION = ("place", "push")
SPECIAL_TOKENS = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<image>",
    "<user>",
    "<assistant>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<point>",
    "</point>",
    NONE,
)

Box = tuple[float, float, float, float]
Point = tuple[float, float]


class Region(msgspec.Struct, frozen=True):
    """A named place in unit coordinates: exactly one of `box` (x1 y1 x2 y2) and `point` is set."""

    label: str
    box: Box | None = None
    point: Point | None = None


class Span(NamedTuple):
    """Where an object stands in a text, in characters: its name and place; its coordinates."""

    start: int
    end: int
    place_start: int
    place_end: int


class StepRegion(msgspec.Struct, frozen=True):
    """One step of an instruction, e.g. place / left of / blue bowl."""

    action: str
    region: Region
    relation: str | None = None


class Parsed(msgspec.Struct, frozen=True):
    """What a model's text says.

    text       for people: tags and locations stripped
    found      False: the model said `<none>`; True: it located something; None: free text
    malformed  part of the text could not be read; what could is in `objects` and `steps`
    spans      where each of `objects` stands in the text; () of this codec, whose tags are tokens
    `objects` lists the regions of the steps too, in the order of the text.
    """

    text: str
    objects: tuple[Region, ...] = ()
    steps: tuple[StepRegion, ...] = ()
    found: bool | None = None
    malformed: bool = False
    spans: tuple[Span, ...] = ()


def location_tokens(bins: int = DEFAULT_BINS) -> tuple[str, ...]:
    """The location tokens of a vocabulary, in order: `<loc000>` ..."""
    return tuple(f"<loc{index:03d}>" for index in range(bins))


def quantise(value: float, bins: int = DEFAULT_BINS) -> int:
    """Unit coordinate -> index of its bin; values outside 0..1 go to the first or last one."""
    return min(bins - 1, max(0, int(value * bins)))


def dequantise(index: int, bins: int = DEFAULT_BINS) -> float:
    """Index of a bin -> unit coordinate of its centre."""
    return (index + 0.5) / bins


def format_box(box: Sequence[float], bins: int = DEFAULT_BINS) -> str:
    """x1 y1 x2 y2 -> `<box><loc...>x4</box>`; a side that is one whole bin is that bin twice."""
    x1, y1, x2, y2 = box
    x2, y2 = _inside_bin(x1, x2, bins), _inside_bin(y1, y2, bins)
    return f"<box>{format_locations((x1, y1, x2, y2), bins)}</box>"


def format_point(point: Sequence[float], bins: int = DEFAULT_BINS) -> str:
    """x y -> `<point><loc...>x2</point>`."""
    return f"<point>{format_locations(point, bins)}</point>"


def format_locations(values: Sequence[float], bins: int = DEFAULT_BINS) -> str:
    """Unit coordinates -> their location tokens."""
    return "".join(f"<loc{quantise(value, bins):03d}>" for value in values)


def format_region(region: Region, bins: int = DEFAULT_BINS) -> str:
    """One named place. ValueError when it cannot be said in this codec."""
    if not region.label.strip() or "<" in region.label or ";" in region.label:
        raise ValueError(f"a label is text without '<' and ';', this is {region.label!r}")
    name = f"<ref>{region.label}</ref>"
    if region.box is not None and region.point is None:
        return name + format_box(region.box, bins)
    if region.point is not None and region.box is None:
        return name + format_point(region.point, bins)
    raise ValueError(f"{region.label!r} needs a box or a point, and not both")


def format_objects(objects: Sequence[Region], bins: int = DEFAULT_BINS) -> str:
    """Objects -> text, from left to right (by centre x, then y); none -> `<none>`."""
    return "".join(format_region(item, bins) for item in sorted(objects, key=_centre)) or NONE


def format_steps(steps: Sequence[StepRegion], bins: int = DEFAULT_BINS) -> str:
    """Steps -> text, in the order given; none -> `<none>`."""
    return "; ".join(_format_step(step, bins) for step in steps) or NONE


def parse(text: str, bins: int = DEFAULT_BINS) -> Parsed:
    """Text of a model -> what it says. Never raises: what cannot be read sets `malformed`.

    The corners of a box may come in either order; the two of one axis in the same bin span it.
    """
    spoken = _CONTROL.sub("", text).strip()
    if "<" not in spoken:
        return Parsed(text=spoken)
    if spoken == NONE:
        return Parsed(text="not in view", found=False)
    parts = [part.strip() for part in spoken.split(";")]
    if _STEP_START.match(spoken):
        return _parse_steps(parts, bins)
    objects, rest = _parse_regions(spoken, bins)
    if not objects:
        return Parsed(text=plain(spoken), malformed=True)
    return Parsed(
        text=", ".join(item.label for item in objects),
        objects=objects,
        found=True,
        malformed=bool(rest.strip()),
    )


def plain(text: str) -> str:
    """Text without tags and locations."""
    return " ".join(_ANY_TAG.sub(" ", text).split())


_CONTROL = re.compile(r"<(?:pad|bos|eos)>")
_ANY_TAG = re.compile(r"</?[a-z]+\d*>")
_LOCATION = re.compile(r"<loc(\d+)>", re.ASCII)
_REGION = re.compile(
    r"<ref>([^<]*)</ref>"
    r"(?:<box>((?:<loc\d+>){4})</box>|<point>((?:<loc\d+>){2})</point>)",
    re.ASCII,
)
_ACTION_TEXT = "|".join(ACTIONS)
_RELATION_TEXT = "|".join(sorted(RELATIONS, key=len, reverse=True))
_STEP_START = re.compile(rf"(?:{_ACTION_TEXT}) (?:(?:{_RELATION_TEXT}) )?<ref>")
_STEP = re.compile(rf"({_ACTION_TEXT}) (?:({_RELATION_TEXT}) )?(<ref>.*)", re.DOTALL)


def _parse_steps(parts: Sequence[str], bins: int) -> Parsed:
    steps: list[StepRegion] = []
    malformed = False
    for part in parts:
        match = _STEP.fullmatch(part)
        action, relation = (match[1], match[2]) if match else ("", None)
        regions, rest = _parse_regions(match[3], bins) if match else ((), part)
        allowed = relation is None or action in ACTIONS_WITH_RELATION
        if len(regions) == 1 and not rest.strip() and allowed:
            steps.append(StepRegion(action, regions[0], relation))
        else:
            malformed = True
    said = "; ".join(
        " ".join(filter(None, (step.action, step.relation, step.region.label))) for step in steps
    )
    return Parsed(
        text=said or plain("; ".join(parts)),
        objects=tuple(step.region for step in steps),
        steps=tuple(steps),
        found=True if steps else None,
        malformed=malformed,
    )


def _parse_regions(text: str, bins: int) -> tuple[tuple[Region, ...], str]:
    """The well-formed regions of a text, and what is left of it."""
    regions: list[Region] = []
    rest: list[str] = []
    end = 0
    for match in _REGION.finditer(text):
        rest.append(text[end : match.start()])
        end = match.end()
        label = match[1].strip()
        # A number of thousands of digits would make int() raise; no vocabulary has such a bin.
        places = [int(digits[:9]) for digits in _LOCATION.findall(match[2] or match[3])]
        if not label or max(places) >= bins:
            rest.append(match[0])
        elif match[2]:
            x1, x2 = _span(places[0], places[2], bins)
            y1, y2 = _span(places[1], places[3], bins)
            regions.append(Region(label, box=(x1, y1, x2, y2)))
        else:
            x, y = (dequantise(place, bins) for place in places)
            regions.append(Region(label, point=(x, y)))
    rest.append(text[end:])
    return tuple(regions), "".join(rest)


def _span(first: int, second: int, bins: int) -> tuple[float, float]:
    """Two bins of one axis -> unit interval, never empty."""
    if first == second:
        return first / bins, (first + 1) / bins
    return dequantise(min(first, second), bins), dequantise(max(first, second), bins)


def _inside_bin(first: float, second: float, bins: int) -> float:
    """The far end of a side, but inside the bin that the side is all of, as `_span` reads it."""
    index = quantise(first, bins)
    return first if (first, second) == (index / bins, (index + 1) / bins) else second


def _format_step(step: StepRegion, bins: int) -> str:
    if step.action not in ACTIONS:
        raise ValueError(f"unknown action {step.action!r}: one of {', '.join(ACTIONS)}")
    if step.relation is None:
        return f"{step.action} {format_region(step.region, bins)}"
    if step.relation not in RELATIONS or step.action not in ACTIONS_WITH_RELATION:
        raise ValueError(f"{step.action!r} cannot be followed by {step.relation!r}")
    return f"{step.action} {step.relation} {format_region(step.region, bins)}"


def _centre(region: Region) -> Point:
    if region.box is not None:
        x1, y1, x2, y2 = region.box
        return (x1 + x2) / 2, (y1 + y2) / 2
    return region.point or (0.0, 0.0)
