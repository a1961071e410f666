"""Each reader takes what its format promises, counts what it cannot use, and says what is wrong."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_mm.data.formats.captions import read_captions
from edge_mm.data.formats.coco import colour_and_kind, read_coco
from edge_mm.data.formats.llava import read_llava
from edge_mm.data.formats.record import Skips
from edge_mm.data.formats.refcoco import read_refcoco
from edge_mm_runtime.errors import UsageError

Write = Callable[[str, Any], Path]


def test_coco_boxes_become_corners(file: Write, coco: dict[str, Any]) -> None:
    skips = Skips()
    a, b, c = read_coco(file("coco.json", coco), skips)
    assert (a.image, a.size) == ("a.png", (120, 80))
    assert [(o.id, o.kind, o.color, o.box_xyxy) for o in a.objects] == [
        (1, "mug", "red", (10.5, 20.0, 40.5, 60.25)),
        (2, "teddy bear", None, (60.0, 5.0, 80.0, 15.0)),
    ]
    assert [o.id for o in b.objects] == [1] and c.objects == ()
    assert not skips.counts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 99}, "annotation of a picture that is not listed"),
        ({"category_id": 99}, "annotation of a category that is not listed"),
        ({"iscrowd": 1}, "annotation of a crowd, not of one object"),
        ({"bbox": [200, 5, 20, 10]}, "box without area in its picture"),
        ({"bbox": [60, 5, -20, 10]}, "box without area in its picture"),
        ({"bbox": [60, 5, 20]}, "annotation that cannot be read"),
        ({"bbox": None}, "annotation that cannot be read"),
    ],
)
def test_one_bad_annotation_is_counted(
    file: Write, coco: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    coco["annotations"][1] |= change
    skips = Skips()
    records = list(read_coco(file("coco.json", coco), skips))
    assert skips.counts == {reason: 1}
    assert [len(record.objects) for record in records] == [1, 1, 0]


def test_coco_outlines_are_optional(file: Write, coco: dict[str, Any]) -> None:
    square = [[60, 5, 80, 5, 80, 15, 60, 15]]
    coco["annotations"][0]["segmentation"] = {"counts": "abc", "size": [80, 120]}
    coco["annotations"][1]["segmentation"] = square
    coco["annotations"][2]["segmentation"] = []
    skips = Skips()
    a, b, _ = read_coco(file("coco.json", coco), skips)
    assert a.outlines == {2: square} and not b.outlines
    assert list(skips.counts) == ["outline that is no polygon: the box stands for it"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.pop("categories"), "missing required field `categories`"),
        (lambda c: c["images"][0].pop("file_name"), r"\$.images\[0\]"),
        (lambda c: c["images"][0].update(file_name="b.png"), "file_name twice"),
        (lambda c: c["images"][0].update(id=c["images"][1]["id"]), "an id of image twice"),
        (lambda c: c["categories"].append(c["categories"][0]), "an id of category twice"),
        (lambda c: c["images"][0].update(width=0), "a.png has no size"),
        (lambda c: c["categories"][0].update(name="a<b"), "rename category 'a<b'"),
    ],
)
def test_what_is_not_coco_is_refused(
    file: Write, coco: dict[str, Any], damage: Callable[[dict[str, Any]], Any], message: str
) -> None:
    damage(coco)
    with pytest.raises(UsageError, match=message):
        list(read_coco(file("coco.json", coco), Skips()))


def test_colour_words() -> None:
    names = ("grey mug", "orange", "Violet  wine_glass", "cup")
    assert [colour_and_kind(name, Path("x")) for name in names] == [
        ("gray", "mug"),
        (None, "orange"),
        ("purple", "wine glass"),
        (None, "cup"),
    ]


def references() -> list[dict[str, Any]]:
    return [
        {
            "ann_id": 2,
            "split": "train",
            "sentences": [{"sent": "the bear on top"}, {"sent": "bear"}],
        },
        {"ann_id": 3, "split": "testA", "sentences": [{"sent": "brown bear"}, {"sent": " "}]},
        {"ann_id": 77, "split": "train", "sentences": [{"sent": "nobody"}]},
        {"ann_id": 1},
    ]


def test_refcoco_sentences_ask_for_their_object(file: Write, coco: dict[str, Any]) -> None:
    file("instances.json", coco)
    skips = Skips()
    a, b = read_refcoco(file("refs.json", references()), skips)
    assert [question.objects for question in a.questions] == [[1], [1]]
    assert "the the" not in a.questions[0].text and "bear on top" in a.questions[0].text
    assert len(a.objects) == 2  # what no sentence speaks of is there too
    assert [question.objects for question in b.questions] == [[0]]
    assert skips.counts == {
        "sentence without words, or with tags": 1,
        "reference to an annotation that is not there": 1,
        "reference that cannot be read": 1,
    }


def test_refcoco_takes_one_split(file: Write, coco: dict[str, Any]) -> None:
    instances = file("elsewhere.json", coco)
    refs = file("refs.json", references())
    records = list(read_refcoco(refs, Skips(), instances, "testA"))
    assert [record.image for record in records] == ["b.png"]
    with pytest.raises(UsageError, match="no split 'val'; it has testA, train"):
        list(read_refcoco(refs, Skips(), instances, "val"))


@pytest.mark.parametrize("name", ["refs(unc).p", "refs.json"])
def test_a_pickle_is_never_loaded(tmp_path: Path, file: Write, name: str) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    path = file(name, pickle.dumps(Trap()))
    with pytest.raises(UsageError, match=r"pickle.*convert it to a JSON list"):
        list(read_refcoco(path, Skips()))
    assert not (tmp_path / "sprung").exists()


def test_refcoco_needs_its_instances(file: Write) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*instances.json"):
        list(read_refcoco(file("refs.json", references()), Skips()))


def talk(*values: str) -> list[dict[str, str]]:
    return [
        {"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)
    ]


def test_llava_turns_become_questions(file: Write) -> None:
    rows = [
        {
            "id": "1",
            "image": "a.png",
            "conversations": talk("<image>\nWhat is it?", "A mug.", "Red?", "yes"),
        },
        {"id": 2, "image": "b.png", "conversations": talk("And this?\n<image>", "A bear.")},
    ]
    skips = Skips()
    first, second = read_llava(file("llava.json", rows), skips)
    assert [(q.text, q.answer) for q in first.questions] == [
        ("What is it?", "A mug."),
        ("Red?", "yes"),
    ]
    assert (second.image, second.questions[0].text) == ("b.png", "And this?")
    assert first.size is None and not skips.counts


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"conversations": talk("a", "b")}, "conversation without a picture"),
        (
            {"image": ["a", "b"], "conversations": talk("a", "b")},
            "conversation about several pictures",
        ),
        ({"image": "a"}, "conversation that cannot be read"),
        (
            {"image": "a", "conversations": talk("a", "b", "c")},
            "conversation that does not alternate",
        ),
        (
            {"image": "a", "conversations": talk("a", "b")[::-1]},
            "conversation that does not alternate",
        ),
        ({"image": "a", "conversations": talk("<image>", "b")}, "turn without text"),
        ({"image": "a", "conversations": talk("where?", "[0.1, 0.25, .5, 1]")}, "turn with a box"),
        ({"image": "a", "conversations": talk("where?", "<box>here</box>")}, "turn with tags"),
    ],
)
def test_one_bad_conversation_is_counted(file: Write, row: dict[str, Any], reason: str) -> None:
    good = {"image": "good.png", "conversations": talk("what?", "this [1, 2]")}
    skips = Skips()
    records = list(read_llava(file("llava.json", [row, good]), skips))
    assert [record.image for record in records] == ["good.png"]
    ((counted, number),) = skips.counts.items()
    assert counted.startswith(reason) and number == 1
    assert "number 0" in skips.lines()[0]


@pytest.mark.parametrize("content", ['{"a": 1}', "not json", b"\xff\xfe"])
def test_what_is_no_list_of_conversations_is_refused(file: Write, content: Any) -> None:
    with pytest.raises(UsageError, match="is not a JSON list of conversations"):
        list(read_llava(file("llava.json", content), Skips()))


def test_captions(file: Write) -> None:
    table = '\ufeffimage,author,caption\na.png,x,"a cup, red"\nb.png,y,\na.png,z,again\n'
    skips = Skips()
    records = list(read_captions(file("c.csv", table), skips))
    assert [(r.image, r.questions[0].answer) for r in records] == [
        ("a.png", "a cup, red"),
        ("a.png", "again"),
    ]
    assert {question.mode for record in records for question in record.questions} == {"caption"}
    assert list(skips.counts.values()) == [1] and "line 3" in skips.lines()[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,text\na.png,cup\n", "no column 'caption'; its first line names 'image', 'text'"),
        ("a,b\n", "no column 'image' and no column 'caption'"),
        ("", "its first line names nothing"),
        (b"image,caption\na.png,\xff\n", "not a CSV table in UTF-8"),
    ],
)
def test_what_is_no_table_of_captions_is_refused(file: Write, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(read_captions(file("c.csv", content), Skips()))


@pytest.mark.parametrize("reader", [read_coco, read_refcoco, read_llava, read_captions])
def test_a_missing_file_is_named(reader: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such file: .*nothing\.json"):
        list(reader(tmp_path / "nothing.json", Skips()))
