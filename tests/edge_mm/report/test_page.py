"""The page is whole, escaped, and its tables can be read without JavaScript."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from edge_mm.data.questions import Question
from edge_mm.data.scenes import Scene, Seen
from edge_mm.evaluate.exam import Item, Marked
from edge_mm.evaluate.metrics import Metric
from edge_mm.report.alignment import figures
from edge_mm.report.page import Exam, Report, render_page
from edge_mm_runtime.answer import Answer, GroundedObject

VOID = {"meta", "input", "img", "br", "link"}


class Reader(HTMLParser):
    """Rows of all tables, and every tag with its attributes; fails where tags do not close."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@pytest.fixture
def exam() -> Exam:
    box, point = (0.25, 0.5, 0.5, 1.0), (0.4, 0.8)
    cup = Seen(1, "cup", "red", box, point, point, 1.0, 0.1, None)
    asked = Question("locate", "find the <red> cup", "<ref>red cup</ref>", (1,))
    said = GroundedObject("blue bowl", (1.0, 2.0, 11.0, 22.0), (6.0, 7.0), 0.75)
    answer = Answer("blue bowl", (said,), None, (), "stop", {})
    scene = Scene("scene 7", "7.png", 80, 40, ())
    failure = Marked(Item(scene, asked, (cup,)), answer, {"locate_iou": 0.0})
    frame = np.zeros((40, 80, 3), np.uint8)
    return Exam("drawn", 6, 48, {"locate_acc50": Metric(0.5, 0.25, 0.75, 12)}, [(failure, frame)])


def test_nothing_is_loaded_and_all_is_escaped(report: Report, exam: Exam) -> None:
    page = render_page(replace(report, exam=exam))
    reader = Reader(page)
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:image/jpeg;base64,").startswith("data:image/jpeg")
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|\beval\b", page)
    assert "caption 1 </script>" not in page and "find the <red>" not in page
    assert page.count("</script>") == 2
    names = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {"step-slider", "diagonal-mean", "rest-mean", "matrix", "plane"} <= set(names)


def test_the_table_of_looks(report: Report) -> None:
    head, *rows = Reader(render_page(report)).rows
    assert head[:4] == ["stage", "step", "samples", "diagonalmean cosine of a picture and its "
                        "own caption"]  # fmt: skip
    assert [row[:3] for row in rows] == [
        ["contrastive", "0", "0"],
        ["contrastive", "10", "160"],
        ["align", "20", "320"],
        ["align", "30", "480"],
    ]
    for row, look in zip(rows, report.looks, strict=True):
        assert row[3:] == [f"{value:.3f}" for value in figures(look, report.subjects).values()]
    assert rows[-1][3] == "1.000"


def test_the_token_map(report: Report) -> None:
    tags = Reader(render_page(report)).tags
    start = next(i for i, (_, attributes) in enumerate(tags) if attributes.get("class") == "map")
    cells = [attributes for tag, attributes in tags[start + 1 :] if tag == "rect"][:9]
    assert [(cell["x"], cell["y"]) for cell in cells] == [
        (str(i % 3), str(i // 3)) for i in range(9)
    ]
    # shown 2 2 - - 3 3 3 3 -, nearest 2 2 2 2 3 3 3 3 3
    right, nothing = "shown", ""
    assert [cell["class"] for cell in cells] == [right] * 2 + [nothing] * 2 + [right] * 4 + [
        nothing
    ]
    first = {cell["style"].split(";")[0] for cell in cells[:4]}
    rest = {cell["style"].split(";")[0] for cell in cells[4:]}
    assert len(first) == len(rest) == 1 and first != rest
    earlier = render_page(replace(report, looks=report.looks[:1]))
    assert earlier.count('class="shown wrong"') == 4 and "bowl -0.10, shows bowl" in earlier


def test_curves_and_stages(report: Report) -> None:
    page = render_page(report)
    assert page.count("<polyline") == 2 * (6 + 2)  # six figures and two losses, two stages
    assert "the stages contrastive, align" in page
    alone = render_page(replace(report, looks=report.looks[-1:], lines=[]))
    assert "<polyline" not in alone and "What the run logged" not in alone


def test_failures_and_the_exam(report: Report, exam: Exam) -> None:
    page = render_page(replace(report, exam=exam))
    rects = [attributes for tag, attributes in Reader(page).tags if tag == "rect"]
    true, predicted = (next(r for r in rects if r.get("class") == name) for name in
                       ("true", "predicted"))  # fmt: skip
    place = ("x", "y", "width", "height")
    assert [float(true[side] or 0) for side in place] == [20, 20, 20, 20]
    assert [float(predicted[side] or 0) for side in place] == [1, 2, 10, 20]
    assert "find the &lt;red&gt; cup" in page and "blue bowl 0.75" in page and "red cup" in page
    assert "48 questions about 6 pictures" in page
    row = Reader(page).rows[-1]
    assert row[0].startswith("locate_acc50") and row[1].strip() == "50.0"
    assert row[2:] == ["25.0 to 75.0", "12"]
    without = render_page(replace(report, exam=replace(exam, failures=[])))
    assert "There are none." in without and "There are none." not in page


def test_the_data_of_the_slider(report: Report) -> None:
    page = render_page(report)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [look["samples"] for look in data["looks"]] == [0, 160, 320, 480]
    assert [look["x"] for look in data["looks"]] == [0, 100, 200, 300]
    assert np.array(data["looks"][0]["cosines"]).shape == (8, 8)
    assert np.array(data["looks"][0]["points"]).shape == (16, 2)


def test_without_places_there_is_no_map(report: Report) -> None:
    from msgspec.structs import replace as changed

    empty = np.zeros((0, 6))
    looks = [replace(look, word=empty, cosine=empty) for look in report.looks]
    subjects = changed(report.subjects, grid=None, mapped=(), shown=())
    page = render_page(replace(report, subjects=subjects, looks=looks))
    assert "nearest to</h2>" not in page and Reader(page).rows[1][-1] == ""
