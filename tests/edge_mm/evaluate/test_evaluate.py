"""The judge, by hand-made answers; the intervals, against their definition."""

from __future__ import annotations

import numpy as np

from edge_mm.data.questions import Question
from edge_mm.data.scenes import Seen
from edge_mm.evaluate.judge import iou, judge, matches
from edge_mm.evaluate.metrics import summarise
from edge_mm_runtime.answer import Answer, GroundedObject, Step

SIZE = (100, 200)
CUP = Seen(1, "cup", "red", (0.1, 0.1, 0.5, 0.5), (0.3, 0.3), (0.3, 0.5), 1.0, 0.1, None)
CUP_BOX = (10.0, 20.0, 50.0, 100.0)


def answer(text: str = "", objects: tuple = (), steps: tuple = (), found: bool | None = None):
    return Answer(text, objects, found, steps, "stop", {})


def place(label: str, box: tuple[float, ...]) -> GroundedObject:
    return GroundedObject(label, box, (box[0], box[1]), 0.9)


def test_places() -> None:
    question = Question("locate", "find the red cup", "", (1,))
    right = judge(question, answer(objects=(place("red cup", CUP_BOX),)), [CUP], SIZE)
    assert right["locate_acc75"] == right["point_in_box"] == right["found"] == 1.0
    half = judge(question, answer(objects=(place("x", (10, 20, 50, 70)),)), [CUP], SIZE)
    assert half["locate_acc50"] == 1.0 and half["locate_acc75"] == 0.0
    assert judge(question, answer(found=False), [CUP], SIZE)["locate_acc50"] == 0.0
    several = judge(
        Question("locate_all", "", "", (1, 1)),
        answer(objects=(place("red cup", CUP_BOX),)),
        [CUP, CUP],
        SIZE,
    )
    assert several["locate_all_f1"] == 2 / 3


def test_a_point_is_on_the_thing_or_only_in_its_box() -> None:
    segmentation = np.zeros((200, 100), np.uint8)  # the cup fills the left half of its box
    segmentation[20:100, 10:30] = CUP.id
    segmentation[199, 99] = CUP.id
    for kind, (x, y), wanted in (
        ("locate", (20.0, 50.0), 1.0),
        ("locate", (40.0, 50.0), 0.0),
        ("point", (29.9, 99.9), 1.0),
        ("point", (30.0, 50.0), 0.0),
        ("point", (100.0, 200.0), 1.0),  # the far corner of the frame is its last pixel
    ):
        found = answer(objects=(GroundedObject("red cup", CUP_BOX, (x, y), 0.9),))
        scores = judge(Question(kind, "", "", (1,)), found, [CUP], SIZE, segmentation)
        assert scores["point_in_mask"] == wanted, (kind, x, y)
    boxed = answer(objects=(GroundedObject("red cup", (10.0, 20.0, 20.0, 40.0), None, 0.9),))
    located = Question("locate", "", "", (1,))
    assert judge(located, boxed, [CUP], SIZE, segmentation)["point_in_mask"] == 1.0  # its centre
    assert judge(located, answer(found=False), [CUP], SIZE, segmentation)["point_in_mask"] == 0.0
    assert "point_in_mask" not in judge(located, boxed, [CUP], SIZE)


def test_words_absence_and_steps() -> None:
    assert judge(Question("count", "", "3"), answer("3"), [], SIZE) == {"count_exact": 1.0}
    assert judge(Question("color", "", "red"), answer("blue"), [], SIZE) == {"color_acc": 0.0}
    absent = Question("absent", "", "<none>")
    assert judge(absent, answer(found=False), [], SIZE) == {"absent_refused": 1.0}
    assert judge(absent, answer("no"), [], SIZE) == {"absent_refused": 0.0}
    text = "pick <ref>red cup</ref><box><loc000><loc000><loc001><loc001></box>"
    pick = Question("steps", "", text, (1,))
    done = answer(steps=(Step("pick", None, place("red cup", CUP_BOX)),))
    assert judge(pick, done, [CUP], SIZE) == {"steps_exact": 1.0}
    pushed = answer(steps=(Step("push", None, place("red cup", CUP_BOX)),))
    assert judge(pick, pushed, [CUP], SIZE) == {"steps_exact": 0.0}
    missed = answer(steps=(Step("pick", None, place("red cup", (60, 20, 90, 100))),))
    assert judge(pick, missed, [CUP], SIZE) == {"steps_exact": 0.0}


def test_iou_by_counting_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        (ax, bx), (ay, by) = (np.sort(rng.integers(0, 15, (2, 2)), 1) for _ in range(2))
        a, b = (np.zeros((16, 16), bool) for _ in range(2))
        a[ay[0] : ay[1] + 1, ax[0] : ax[1] + 1] = True
        b[by[0] : by[1] + 1, bx[0] : bx[1] + 1] = True
        ours = iou((ax[0], ay[0], ax[1] + 1, ay[1] + 1), (bx[0], by[0], bx[1] + 1, by[1] + 1))
        assert abs(ours - (a & b).sum() / (a | b).sum()) < 1e-9


def test_matches_are_one_to_one() -> None:
    box, near = (0, 0, 10, 10), (0, 0, 10, 9)
    assert matches([box, near], [box]) == 1 and matches([box], [box, near]) == 1
    assert matches([box, near], [box, near]) == 2 and matches([], [box]) == 0


def test_intervals_hold_the_truth_and_f1_is_f1() -> None:
    rng = np.random.default_rng(0)
    pictures = [[{"color_acc": float(rng.random() < 0.7)} for _ in range(4)] for _ in range(200)]
    metric = summarise(pictures)["color_acc"]
    assert metric.low < 0.7 < metric.high and metric.n == 800 and metric.high - metric.low < 0.1
    said_yes = {"exist_f1.hit": 1.0, "exist_f1.said": 1.0, "exist_f1.true": 1.0}
    missed = {"exist_f1.hit": 0.0, "exist_f1.said": 0.0, "exist_f1.true": 1.0}
    assert abs(summarise([[said_yes], [missed]])["exist_f1"].value - 2 / 3) < 1e-3
