"""The codec: what is formatted is parsed again, and nothing makes parse raise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mm_runtime.grounding import (
    ACTIONS,
    RELATIONS,
    SPECIAL_TOKENS,
    Region,
    StepRegion,
    dequantise,
    format_objects,
    format_steps,
    location_tokens,
    parse,
    quantise,
)

BINS = 128
unit = st.floats(0, 1)
labels = st.text("abcdefghijklmnop 0123456789", min_size=1, max_size=20).map(str.strip)
labels = labels.filter(bool)
boxes = st.tuples(unit, unit, unit, unit).map(
    lambda v: (min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3]))
)
box_regions = st.builds(Region, labels, box=boxes)
regions = box_regions | st.builds(Region, labels, point=st.tuples(unit, unit))
related = st.builds(
    StepRegion, st.sampled_from(["place", "push"]), regions, st.sampled_from(RELATIONS)
)
steps = related | st.builds(StepRegion, st.sampled_from(ACTIONS), regions)

BOX = "<box><loc012><loc034><loc056><loc078></box>"
CUP = f"<ref>red cup</ref>{BOX}"


def places(region: Region) -> tuple[float, ...]:
    return region.box or region.point or ()


def test_the_examples_of_the_contract() -> None:
    cup = Region("red cup", (12.5 / BINS, 34.5 / BINS, 56.5 / BINS, 78.5 / BINS))
    bowl = Region("blue bowl", point=(0.5, 1.0))
    assert format_objects([cup]) == CUP
    assert format_objects([]) == format_steps([]) == "<none>"
    said = format_steps([StepRegion("pick", cup), StepRegion("place", bowl, "left of")])
    assert said == (
        f"pick {CUP}; place left of <ref>blue bowl</ref><point><loc064><loc127></point>"
    )
    assert parse(CUP).objects == (cup,)


def test_objects_are_said_from_left_to_right() -> None:
    right, left = Region("b", (0.6, 0, 0.9, 1)), Region("a", (0.1, 0, 0.3, 1))
    assert [item.label for item in parse(format_objects([right, left])).objects] == ["a", "b"]


@given(unit)
def test_a_bin_holds_its_value(value: float) -> None:
    index = quantise(value, BINS)
    assert index == min(BINS - 1, math.floor(value * BINS))
    assert abs(dequantise(index, BINS) - value) <= 0.5 / BINS


@given(st.lists(regions, min_size=1, max_size=5))
def test_objects_survive_the_round_trip(objects: list[Region]) -> None:
    parsed = parse(format_objects(objects, BINS), BINS)
    assert (parsed.found, parsed.malformed, parsed.steps) == (True, False, ())
    ordered = sorted(objects, key=_centre)
    for before, after in zip(ordered, parsed.objects, strict=True):
        assert after.label == before.label
        # a box in one bin is widened to the bin, so it may move by a whole half more
        assert places(after) == pytest.approx(places(before), abs=1.0 / BINS)
    assert parsed.text == ", ".join(item.label for item in ordered)


@given(st.lists(steps, min_size=1, max_size=4))
def test_steps_survive_the_round_trip(told: list[StepRegion]) -> None:
    parsed = parse(format_steps(told, BINS), BINS)
    assert (parsed.found, parsed.malformed) == (True, False)
    for before, after in zip(told, parsed.steps, strict=True):
        assert (after.action, after.relation) == (before.action, before.relation)
        assert after.region.label == before.region.label
    assert parsed.objects == tuple(step.region for step in parsed.steps)


pieces = st.sampled_from(
    [*SPECIAL_TOKENS, "<loc001>", "<loc999>", "<loc>", "pick ", "place left of ", "; ", "cup", "<"]
)


@settings(max_examples=300)
@given(st.lists(pieces | st.text(max_size=5), max_size=25).map("".join))
def test_parse_is_total(text: str) -> None:
    parsed = parse(text, BINS)
    for item in parsed.objects:
        assert item.label.strip()
        assert (item.box is None) != (item.point is None)
        assert all(0 <= value <= 1 for value in places(item))
    assert (parsed.found is True) == bool(parsed.objects)


@pytest.mark.parametrize(
    ("text", "said", "found", "malformed"),
    [
        ("yes", "yes", None, False),
        ("", "", None, False),
        ("<bos> 3 <eos>", "3", None, False),
        ("<none>", "not in view", False, False),
        (CUP, "red cup", True, False),
        (CUP + CUP, "red cup, red cup", True, False),
        (CUP + "<ref>blue", "red cup", True, True),
        (CUP + "<none>", "red cup", True, True),
        ("<ref>red cup", "red cup", None, True),
        (f"<ref></ref>{BOX}", "", None, True),
        ("<ref>cup</ref><box><loc001><loc002></box>", "cup", None, True),
        ("<ref>cup</ref><point><loc001><loc128></point>", "cup", None, True),
        ("<ref>cup</ref><point><loc001><loc" + "9" * 5000 + "></point>", "cup", None, True),
        (f"pick {CUP}", "pick red cup", True, False),
        (f"pick {CUP}; place", "pick red cup", True, True),
        (f"point to {CUP}", "point to red cup", True, False),
        (f"place in front of {CUP}", "place in front of red cup", True, False),
        (f"pick behind {CUP}", "pick behind red cup", None, True),
        (f"pick {CUP}{CUP}", "pick red cup red cup", None, True),
    ],
)
def test_what_texts_say(text: str, said: str, found: bool | None, malformed: bool) -> None:
    parsed = parse(text, BINS)
    assert (parsed.text, parsed.found, parsed.malformed) == (said, found, malformed)


def test_corners_in_either_order_and_never_an_empty_box() -> None:
    [item] = parse("<ref>cup</ref><box><loc056><loc034><loc012><loc034></box>").objects
    assert item.box == (12.5 / BINS, 34 / BINS, 56.5 / BINS, 35 / BINS)


def test_what_cannot_be_said_is_refused() -> None:
    box = (0.1, 0.1, 0.2, 0.2)
    for region in (Region("", box), Region("<ref>", box), Region("a; b", box)):
        with pytest.raises(ValueError, match="a label is text"):
            format_objects([region])
    for region in (Region("cup"), Region("cup", box, (0.1, 0.1))):
        with pytest.raises(ValueError, match="needs a box or a point"):
            format_objects([region])
    with pytest.raises(ValueError, match="unknown action 'throw'"):
        format_steps([StepRegion("throw", Region("cup", box))])
    with pytest.raises(ValueError, match="'pick' cannot be followed by 'in'"):
        format_steps([StepRegion("pick", Region("cup", box), "in")])


def test_location_tokens_are_as_parse_reads_them() -> None:
    tokens = location_tokens(BINS)
    assert (tokens[0], tokens[-1], len(set(tokens))) == ("<loc000>", "<loc127>", BINS)


def _centre(region: Region) -> tuple[float, float]:
    values = places(region)
    return (values[0] + values[-2]) / 2, (values[1] + values[-1]) / 2
