"""Codecs: how a model names places, as a pair of pure functions `format` and `parse`.

    codec = open_codec(bundle.manifest.grounding)
    parsed = codec.parse(text, placement.model_width, placement.model_height)
    frame_box = placement.from_unit(parsed.objects[0].box)

Regions are in unit coordinates of the model input (0..1 of its width and height, which some codecs
need because they speak its pixels). `parse` never raises: what cannot be read sets `malformed`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge_mm_runtime import grounding
from edge_mm_runtime.answer import MODES, Mode
from edge_mm_runtime.bundle import Grounding
from edge_mm_runtime.codecs import (
    florence2,
    internvl,
    kosmos2,
    molmo,
    paligemma,
    qwen,
    qwen2_vl,
)
from edge_mm_runtime.codecs.lark import Kind, Spelling
from edge_mm_runtime.grounding import Parsed, Region

Format = Callable[[Sequence[Region], int, int], str]
Parse = Callable[[str, int, int], Parsed]
PLACES: dict[Mode, str] = {"locate": "box", "point": "point", "steps": "steps"}
"""What a model must be able to say for a mode; the others take words."""


class Codec(NamedTuple):
    """One way to name places.

    format     (objects, width, height of the model input in pixels) -> text; ValueError for what
               it cannot say
    parse      (text, width, height) -> what it says
    speaks     of "box", "point" and "steps" those that it has words for
    grammar    Lark of an answer that is one or more places of a kind, or none; the edge_mm codec
               has its own (see grammar.py)
    locations  its location tokens in order, where places are such
    tags       matches each token that only places are made of
    """

    name: str
    format: Format
    parse: Parse
    speaks: tuple[str, ...]
    grammar: Callable[[Kind, Spelling], str] | None = None
    locations: tuple[str, ...] = ()
    tags: re.Pattern[str] | None = None

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes of `Session.ask` that a model of this codec can answer in."""
        return tuple(mode for mode in MODES if PLACES.get(mode) in (None, *self.speaks))

    def found(self, parsed: Parsed, mode: Mode, ended: bool) -> bool | None:
        """`Answer.found` of what was said in a mode; `ended`: the model ended its answer itself.

        Saying nothing where places were asked for is "not in view", being cut short is not.
        """
        if self.name == "edge_mm" or parsed.found is True:
            return parsed.found
        silent = mode in PLACES and not parsed.text and not parsed.malformed
        return False if ended and (silent or parsed.found is False) else None


def open_codec(settings: Grounding) -> Codec:
    """The codec of a bundle: `open_codec(manifest.grounding)`."""
    if settings.codec != "edge_mm":
        return CODECS[settings.codec]
    bins = settings.bins
    return CODECS["edge_mm"]._replace(
        format=lambda objects, width, height: grounding.format_objects(objects, bins),
        parse=lambda text, width, height: grounding.parse(text, bins),
        locations=grounding.location_tokens(bins),
    )


def _format_nothing(objects: Sequence[Region], width: int, height: int) -> str:
    raise ValueError("this model was not taught to name places")


def _parse_words(text: str, width: int, height: int) -> Parsed:
    return Parsed(text=text.strip())


_BOTH = ("box", "point")
_CODECS = (
    Codec(
        "edge_mm",
        lambda objects, width, height: grounding.format_objects(objects),
        lambda text, width, height: grounding.parse(text),
        (*_BOTH, "steps"),
        locations=grounding.location_tokens(),
    ),
    Codec("qwen2_5_vl", qwen.format_pixels, qwen.parse_pixels, _BOTH, qwen.grammar_pixels),
    Codec(
        "qwen3_vl", qwen.format_thousandths, qwen.parse_thousandths, _BOTH, qwen.grammar_thousandths
    ),
    Codec(
        "qwen2_vl",
        qwen2_vl.format_objects,
        qwen2_vl.parse,
        _BOTH,
        qwen2_vl.grammar,
        tags=qwen2_vl.TAGS,
    ),
    Codec(
        "paligemma",
        paligemma.format_objects,
        paligemma.parse,
        ("box",),
        paligemma.grammar,
        paligemma.LOCATIONS,
        paligemma.TAGS,
    ),
    Codec(
        "internvl",
        internvl.format_objects,
        internvl.parse,
        ("box",),
        internvl.grammar,
        tags=internvl.TAGS,
    ),
    Codec(
        "kosmos2",
        kosmos2.format_objects,
        kosmos2.parse,
        ("box",),
        kosmos2.grammar,
        kosmos2.LOCATIONS,
        kosmos2.TAGS,
    ),
    Codec(
        "florence2",
        florence2.format_objects,
        florence2.parse,
        ("box",),
        florence2.grammar,
        florence2.LOCATIONS,
        florence2.TAGS,
    ),
    Codec("molmo", molmo.format_objects, molmo.parse, ("point",), molmo.grammar, tags=molmo.TAGS),
    Codec("none", _format_nothing, _parse_words, ()),
)
CODECS: dict[str, Codec] = {codec.name: codec for codec in _CODECS}
"""By the name in a bundle."""
