"""Codecs of other models on their published examples, and on texts that no model should say."""

from __future__ import annotations

import random
import re
from typing import get_args

import pytest

from edge_mm_runtime.bundle import CodecName, Grounding
from edge_mm_runtime.codecs import CODECS, open_codec
from edge_mm_runtime.grounding import Parsed, Region
from edge_mm_runtime.image import ImageTransform

SIZE = (1000, 500)
OTHERS = [name for name in CODECS if name not in ("edge_mm", "none")]
CUP = Region("red cup", (0.1, 0.2, 0.5, 0.8))
BOWL = Region("a bowl", (0.25, 0.5, 0.75, 1.0))
HERE = Region("red cup", point=(0.105, 0.2))


def parse(name: str, text: str) -> Parsed:
    return CODECS[name].parse(text, *SIZE)


def test_a_bundle_may_name_every_codec_and_no_other() -> None:
    assert set(get_args(CodecName)) == CODECS.keys()
    assert all(open_codec(Grounding(name)).name == name for name in CODECS)


def test_our_own_codec_has_the_bins_of_the_bundle() -> None:
    codec = open_codec(Grounding("edge_mm", bins=4))
    assert codec.format([CUP], *SIZE) == (
        "<ref>red cup</ref><box><loc000><loc000><loc002><loc003></box>"
    )
    assert codec.parse("<ref>cup</ref><point><loc000><loc004></point>", *SIZE).malformed
    assert codec.modes == ("auto", "locate", "point", "answer", "caption", "steps")


QWEN = "qwen2_5_vl"
EXAMPLES = [
    (  # pixels of a 1000 x 500 input
        "qwen2_5_vl",
        '```json\n[\n\t{"bbox_2d": [100, 100, 500, 400], "label": "red cup"},\n'
        '\t{"bbox_2d": [250, 250, 750, 500], "label": "a bowl"}\n]\n```',
        [CUP, BOWL],
    ),
    (
        "qwen2_5_vl",
        '```json\n[\n\t{"point_2d": [105, 100], "label": "red cup"}\n]\n```',
        [HERE],
    ),
    (
        "qwen3_vl",
        '```json\n[\n\t{"bbox_2d": [100, 200, 500, 800], "label": "red cup"}\n]\n```',
        [CUP],
    ),
    (
        "qwen2_vl",
        "<|object_ref_start|>red cup<|object_ref_end|><|box_start|>(100,200),(500,800)<|box_end|>",
        [CUP],
    ),
    (
        "qwen2_vl",
        "<|object_ref_start|>red cup<|object_ref_end|><|box_start|>(105,200)<|box_end|>",
        [HERE],
    ),
    (
        "internvl",
        "<ref>red cup</ref><box>[[100, 200, 500, 800]]</box>"
        "<ref>a bowl</ref><box>[[250, 500, 750, 1000]]</box>",
        [CUP, BOWL],
    ),
    ("molmo", '<point x="10.5" y="20.0" alt="red cup">red cup</point>', [HERE]),
    ("paligemma", "<loc0205><loc0102><loc0818><loc0512> red cup", [CUP]),
    ("florence2", "red cup<loc_100><loc_200><loc_500><loc_800>", [CUP]),
    (
        "kosmos2",
        "<phrase>red cup</phrase><object><patch_index_0195><patch_index_0815></object>",
        [CUP],
    ),
]


@pytest.mark.parametrize(("name", "text", "objects"), EXAMPLES)
def test_the_published_form(name: str, text: str, objects: list[Region]) -> None:
    assert CODECS[name].format(objects, *SIZE) == text
    parsed = parse(name, text)
    assert (parsed.found, parsed.malformed, parsed.steps) == (True, False, ())
    assert parsed.text == ", ".join(item.label for item in objects)
    for got, want in zip(parsed.objects, objects, strict=True):
        assert got.label == want.label
        bin_size = 1 / 32 if name == "kosmos2" else 1e-3
        assert got.box == pytest.approx(want.box, abs=bin_size / 2 + 1e-9)
        assert got.point == pytest.approx(want.point, abs=bin_size / 2)


def test_kosmos_as_its_processor_reads_it() -> None:
    """The docstring of transformers' clean_text_and_extract_entities_with_bboxes."""
    parsed = parse(
        "kosmos2",
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044>"
        "<patch_index_0863></object> warming himself by<phrase> a fire</phrase><object>"
        "<patch_index_0005><patch_index_0911></object>.",
    )
    assert parsed.objects == (
        Region("a snowman", (0.390625, 0.046875, 0.984375, 0.828125)),
        Region("a fire", (0.171875, 0.015625, 0.484375, 0.890625)),
    )
    assert parsed.text == "An image of a snowman warming himself by a fire ."
    assert parsed.found and not parsed.malformed


def test_paligemma_says_y_first_and_several_things() -> None:
    parsed = parse(
        "paligemma",
        "<loc0000><loc1023><loc0341><loc0682>cat;<loc0000><loc0000>"
        "<loc1023><loc1023><seg012><seg127> big dog",
    )
    assert parsed.objects == (
        Region("cat", (682 / 1023, 0.0, 1.0, 341 / 1023)),
        Region("big dog", (0.0, 0.0, 1.0, 1.0)),
    )


SEVERAL = [
    ("internvl", "<ref>cup</ref><box>[[0, 0, 500, 500], [500,500,1000,1000]]</box>"),
    (
        "qwen2_vl",
        "<|object_ref_start|>cup<|object_ref_end|><|box_start|>(0,0),(500,500)<|box_end|>"
        "<|box_start|>(500,500),(1000,1000)<|box_end|>",
    ),
    (
        "kosmos2",
        "<phrase> cup</phrase><object><patch_index_0000><patch_index_0495>"
        "</delimiter_of_multi_objects/><patch_index_0528><patch_index_1023></object>",
    ),
    (
        "florence2",
        "cup<loc_0><loc_0><loc_500><loc_500><loc_500><loc_500><loc_999><loc_999>",
    ),
]


@pytest.mark.parametrize(("name", "text"), SEVERAL)
def test_one_name_for_several_boxes(name: str, text: str) -> None:
    parsed = parse(name, text)
    first, second = parsed.objects
    assert first.label == second.label == "cup" and not parsed.malformed
    assert first.box == pytest.approx((0, 0, 0.5, 0.5), abs=1 / 32)
    assert second.box == pytest.approx((0.5, 0.5, 1, 1), abs=1 / 32)


def test_molmo_says_several_points_at_once() -> None:
    parsed = parse(
        "molmo", ' <points x1="10.0" y1="20.5" x2=" 30" y2="100.0" alt="cups">cups</points>'
    )
    assert [item.point for item in parsed.objects] == [(0.1, 0.205), (0.3, 1.0)]
    assert {item.label for item in parsed.objects} == {"cups"}
    beyond = parse(
        "molmo", '<points x1="10.0" y1="20.5" x2="130" y2="9.0" alt="cups">cups</points>'
    )
    assert len(beyond.objects) == 1 and beyond.malformed


@pytest.mark.parametrize(
    ("name", "text", "labels", "found", "malformed"),
    [
        (QWEN, '[{"bbox_2d": [1, 2, 3, 4], "label": "cup"}]', ["cup"], True, False),
        (QWEN, '{"bbox_2d": [1, 2, 3, 4], "label": "cup"}', ["cup"], True, False),
        (QWEN, '[{"label": "a \\"x\\" {y}", "bbox_2d": [1,2,3,4]}]', ['a "x" {y}'], True, False),
        (QWEN, '[{"bbox_2d": [1, 2, 3, 4]}]', ["object"], True, False),
        (QWEN, '[{"bbox_2d": [1, 2, 3, 4], "text_content": "EXIT"}]', ["EXIT"], True, False),
        (QWEN, '[{"bbox_2d": [1,2,3,4], "label": "a"}, {"bbox_2d": [1, 2', ["a"], True, True),
        (QWEN, '[{"bbox_2d": [1, 2, 3, 4], "label": "a"},', ["a"], True, True),
        (QWEN, '[{"bbox_2d": [1, 2, 3], "label": "a"}]', [], None, True),
        (QWEN, '[{"bbox_2d": [1, 2, 3, "4"], "label": "a"}]', [], None, True),
        (QWEN, '[{"bbox_2d": [1, 2, 3, NaN], "label": "a"}]', [], None, True),
        (QWEN, '[{"bbox_2d": [1, 2, 3, ' + "9" * 5000 + '], "label": "a"}]', [], None, True),
        (QWEN, '[{"bbox_2d": [1, 2, 3, ' + "9" * 400 + '], "label": "a"}]', [], None, True),
        (QWEN, '[{"bbox_2d": ' + "[" * 5000 + "}", [], None, True),
        (QWEN, "[]", [], False, False),
        ("qwen3_vl", "```json\n[]\n```<|im_end|>", [], False, False),
        ("qwen3_vl", "a [b] {c}", [], None, False),
        ("internvl", "<ref>cup</ref><box>[[1, 2, 3]]</box>", [], None, True),
        ("internvl", "<ref>cup</ref><box>[[1,2,3,4]]</box><ref>bowl", ["cup"], True, True),
        ("internvl", "<box>[[1, 2, 3, 4]]</box>", ["object"], True, False),
        ("internvl", "<ref>a</ref><box>[[1, 2, 3, 99999999999999]]</box>", [], None, True),
        ("qwen2_vl", "<|box_start|>(1,2),(3,4)<|box_end|>", ["object"], True, False),
        ("qwen2_vl", "<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2", [], None, True),
        ("kosmos2", "<phrase>a</phrase><object><patch_index_0001></object>", [], None, True),
        ("kosmos2", "<object><patch_index_0001><patch_index_1024></object>", [], None, True),
        ("paligemma", "<loc0001><loc0002><loc0003><loc0004>", ["object"], True, False),
        ("paligemma", "<loc0001><loc0002><loc0003> cup", [], None, True),
        ("paligemma", "<loc0001><loc0002><loc0003><loc1024> cup", [], None, True),
        ("paligemma", "<loc0001><loc0002><loc0003><loc0004> a ; <loc0001>", ["a"], True, True),
        ("florence2", "</s><s>a<loc_1><loc_2><loc_3><loc_4></s>", ["a"], True, False),
        ("florence2", "a<loc_1><loc_2><loc_3><loc_4><loc_5>", ["a"], True, True),
        ("florence2", "a<loc_1><loc_2><loc_3><loc_1000>", [], None, True),
        ("molmo", '<point x="1.0" y="2.0">cup</point>', ["cup"], True, False),
        ("molmo", '<point x="1.0" y="2.0" alt="cup">cup', [], None, True),
        ("molmo", "There are none.", [], False, False),
        *((name, "none", [], False, False) for name in OTHERS),
        *((name, " None. ", [], False, False) for name in OTHERS),
        *((name, "a red cup, 3 < 4", [], None, False) for name in (*OTHERS, "none")),
        *((name, "", [], None, False) for name in (*OTHERS, "none")),
        ("none", "none", [], None, False),
    ],
)  # fmt: skip
def test_what_texts_say(
    name: str, text: str, labels: list[str], found: bool | None, malformed: bool
) -> None:
    parsed = parse(name, text)
    assert [item.label for item in parsed.objects] == labels
    assert (parsed.found, parsed.malformed) == (found, malformed)


def test_free_words_are_kept() -> None:
    for name in (*OTHERS, "none"):
        assert parse(name, "a red cup, 3 < 4").text == "a red cup, 3 < 4"
    said = parse("internvl", "Sure: <ref>cup</ref><box>[[1,2,3,4]]</box> is here<|im_end|>")
    assert said.text == "Sure: cup is here"
    assert parse("qwen3_vl", 'Here: [{"bbox_2d": [1,2,3,4], "label": "cup"}]').text == "Here: cup"


def test_places_outside_are_moved_to_the_edge_and_corners_put_in_order() -> None:
    [item] = parse(QWEN, '[{"bbox_2d": [2000, 400, -5, 100], "label": "a"}]').objects
    assert item.box == (0.0, 0.2, 1.0, 0.8)
    [item] = parse("kosmos2", "<object><patch_index_0863><patch_index_0044></object>").objects
    assert item.box == (0.390625, 0.046875, 0.984375, 0.828125)


PIECES = {
    "qwen2_5_vl": ['{"bbox_2d": [', "1, 2, 3, 4", "]", "}", '"label": "a"', "[", "```json\n", '"',
                   "\\"],
    "qwen2_vl": ["<|object_ref_start|>", "<|box_start|>", "<|box_end|>", "(1,2)", ",", "<|"],
    "internvl": ["<ref>", "</ref>", "<box>", "</box>", "[[", "1, 2, 3, 4", "]]", "[1,2,3,4]"],
    "paligemma": ["<loc0001>" * 4, "<loc0001>", "<loc9999>", ";", "<seg001>", "<loc"],
    "kosmos2": ["<phrase>", "</phrase>", "<object>", "</object>", "<patch_index_0001>" * 2,
                "<patch_index_0900>", "</delimiter_of_multi_objects/>"],
    "florence2": ["<loc_1>" * 4, "<loc_999>", "<loc_1000>", "<loc_"],
    "molmo": ["<point ", '<points x1="1.5" y1="99"', ' x="1" y="2"', ' alt="a"', ">", "</point>"],
    "none": [],
}  # fmt: skip
PIECES["qwen3_vl"] = PIECES["qwen2_5_vl"]


@pytest.mark.parametrize("name", [name for name in CODECS if name != "edge_mm"])
def test_parse_is_total(name: str) -> None:
    draw = random.Random(name)
    places = [HERE] if CODECS[name].speaks == ("point",) else [CUP]
    whole = "" if name == "none" else CODECS[name].format(places, *SIZE)
    pieces = [
        *PIECES[name],
        whole,
        whole[:40],
        whole[30:],
        "cup",
        " ",
        "<",
        ">",
        "\n",
        "ä",
        "1",
        "none",
        "</s>",
        "<|im_end|>",
    ]
    found = 0
    for _ in range(400):
        text = "".join(draw.choice(pieces) for _ in range(draw.randrange(14)))
        parsed = parse(name, text)
        assert (parsed.found is True) == bool(parsed.objects)
        assert len(parsed.spans) == len(parsed.objects)
        before = 0
        for item, span in zip(parsed.objects, parsed.spans, strict=True):
            assert item.label.strip() and (item.box is None) != (item.point is None)
            assert all(0 <= value <= 1 for value in item.box or item.point or ())
            assert before <= span.start <= span.place_start < span.place_end <= span.end
            assert re.search(r"\d", text[span.place_start : span.place_end])
            before = span.end
        assert before <= len(text)
        found += bool(parsed.objects)
    assert found or name == "none"


@pytest.mark.parametrize("name", CODECS)
def test_a_long_text_takes_no_long_time(name: str) -> None:
    """Each would take minutes where a pattern tries every way to cut a text: a test that hangs."""
    for piece in ("a ", "{", '{"', "<loc_1> ", "<box>[[1,2,3,4] ", "<patch_index_0001> " * 2):
        parse(name, piece * (6000 // len(piece)))
    for piece in ("<object>", "<box>[", "<point ", "<ref>a</ref>"):
        parse(
            name,
            piece + "[1,2,3,4]  ," * 200 + "<patch_index_0001>   " * 200 + ' x="1" y="2" ' * 200,
        )


def test_what_cannot_be_said_is_refused() -> None:
    for name in OTHERS:
        codec = CODECS[name]
        for item in (Region(" ", CUP.box), Region("cup"), Region("cup", CUP.box, HERE.point)):
            with pytest.raises(ValueError, match=r"label|needs a|says"):
                codec.format([item], *SIZE)
        other = HERE if codec.speaks == ("box",) else CUP
        if len(codec.speaks) == 1:
            with pytest.raises(ValueError, match=f"{name} says {codec.speaks[0]}"):
                codec.format([other], *SIZE)
    with pytest.raises(ValueError, match="not taught to name places"):
        CODECS["none"].format([CUP], *SIZE)
    with pytest.raises(ValueError, match="a label is text without < > ;"):
        CODECS["paligemma"].format([Region("a; b", CUP.box)], *SIZE)


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_is_said_and_read(name: str) -> None:
    codec = CODECS[name]
    nothing = codec.parse(codec.format([], *SIZE), *SIZE)
    assert (nothing.found, nothing.text, nothing.objects) == (False, "not in view", ())


def test_found_is_false_only_when_the_model_ended_by_itself() -> None:
    codec = CODECS["paligemma"]
    silence, none, free = (codec.parse(text, *SIZE) for text in ("", "none", "a cup"))
    assert codec.found(silence, "locate", ended=True) is False
    assert codec.found(silence, "locate", ended=False) is None  # a deadline is no absence
    assert codec.found(silence, "answer", ended=True) is None
    assert codec.found(none, "locate", ended=True) is False
    assert codec.found(none, "locate", ended=False) is None  # of "none of them", perhaps
    assert codec.found(free, "locate", ended=True) is None
    own = open_codec(Grounding("edge_mm"))
    assert own.found(own.parse("<none>", *SIZE), "locate", ended=False) is False
    assert own.found(own.parse("", *SIZE), "locate", ended=True) is None


def test_modes_are_those_that_there_are_words_for() -> None:
    assert CODECS["none"].modes == ("auto", "answer", "caption")
    assert CODECS["paligemma"].modes == ("auto", "locate", "answer", "caption")
    assert CODECS["molmo"].modes == ("auto", "point", "answer", "caption")
    assert CODECS["qwen3_vl"].modes == ("auto", "locate", "point", "answer", "caption")


def test_a_frame_box_comes_back_through_a_letterbox() -> None:
    placement = ImageTransform("letterbox", 1000, 1000).placement(640, 480)
    unit = placement.to_unit((64, 48, 320, 240))
    codec = CODECS["qwen2_5_vl"]
    text = codec.format([Region("cup", tuple(unit))], 1000, 1000)
    assert '"bbox_2d": [100, 200, 500, 500]' in text
    [item] = codec.parse(text, 1000, 1000).objects
    assert placement.from_unit(item.box).tolist() == pytest.approx([64, 48, 320, 240], abs=0.32)
