"""Negatives are absent and of their setting; answers of known sort give known figures."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from edge_mm.data.scenes import Seen, read_scenes
from edge_mm.evaluate.hallucination import (
    EACH,
    SETTINGS,
    Company,
    Probe,
    claim,
    hallucination,
    probes,
    score,
)
from edge_mm.evaluate.metrics import summarise
from edge_mm.words import KINDS
from edge_mm_runtime.answer import Answer, GroundedObject
from tests.edge_mm.conftest import imagined_view


def thing(number: int, kind: str) -> Seen:
    x = 0.1 * number
    box = (x, 0.4, x + 0.1, 0.5)
    return Seen(number, kind, "red", box, (x, 0.4), (x, 0.5), 1.0, 0.1, None)


def test_what_is_asked_is_there_or_is_not(view_rng: random.Random) -> None:
    for _ in range(50):
        view = imagined_view(view_rng)
        kinds = {item.kind for item in view} | (
            {"cup"} if any(i.kind == "mug" for i in view) else set()
        )
        asked = probes(view, Company(), view_rng, False)
        for probe in asked:
            assert probe.kind in probe.text
            assert (probe.kind in kinds) is probe.there
        for setting in SETTINGS:
            counted = [probe.there for probe in asked if setting in probe.settings]
            assert 2 * sum(counted) == len(counted) <= 2 * EACH


def test_negatives_are_popular_or_in_company() -> None:
    company = Company()
    company.shown.update({"cup": 9, "bowl": 8, "can": 7, "pear": 6, "ball": 1})
    company.together.update(
        {
            ("cup", "spoon"): 5,
            ("cup", "plate"): 4,
            ("can", "plate"): 2,
            ("cup", "ball"): 3,
            ("pear", "hammer"): 99,
        }
    )
    view = [thing(1, "cup"), thing(2, "can"), thing(3, "bottle")]
    asked = probes(view, company, random.Random(0), False)
    drawn = {
        setting: {p.kind for p in asked if setting in p.settings and not p.there}
        for setting in SETTINGS
    }
    assert drawn["popular"] == {"bowl", "pear", "ball"}  # cup and can are there
    assert drawn["adversarial"] == {"plate", "spoon", "ball"}  # beside the cup and the can
    assert len(drawn["random"]) == 3


def test_company_is_counted_by_picture(scene_folder: Path) -> None:
    scenes = read_scenes(scene_folder)
    company = Company.of(scenes)
    for a in KINDS:
        assert company.shown[a] == sum(any(o.kind == a for o in s.objects) for s in scenes)
        for b in KINDS:
            both = sum({a, b} <= {o.kind for o in s.objects} for s in scenes) if a != b else 0
            assert company.together[a, b] == both


def test_precision_recall_and_f1_by_hand() -> None:
    answers = [(True, True)] * 3 + [(False, True)] * 2 + [(True, False)] + [(False, False)] * 4
    scores = [score(Probe("", "", ("random",), there), said) for said, there in answers]
    figures = summarise([scores])
    wanted = {"acc": 0.7, "yes": 0.4, "precision": 3 / 4, "recall": 3 / 5, "f1": 2 * 3 / (4 + 5)}
    assert {name: m.value for name, m in figures.items()} == {
        f"pope_random_{name}": pytest.approx(value, abs=1e-4) for name, value in wanted.items()
    }
    neither = score(Probe("", "", ("random",), False), None)
    assert neither["pope_random_acc"] == neither["pope_random_yes"] == 0.0


def test_what_an_answer_claims() -> None:
    def answer(text: str, found: bool | None = None, *objects: GroundedObject) -> Answer:
        return Answer(text, objects, found, (), "stop", {})

    assert claim(answer("yes")) is True and claim(answer("no")) is False
    assert claim(answer("not in view", False)) is False
    assert claim(answer("red cup", True, GroundedObject("red cup", None, (1, 1), 0.9))) is True
    assert claim(answer("red")) is None


def test_a_yes_sayer(scene_folder: Path) -> None:
    asked = []

    def yes(frame, text: str) -> Answer:
        asked.append(text)
        return Answer("yes", (), None, (), "stop", {})

    figures = summarise(hallucination(yes, scene_folder, None, False, 0))
    for setting in SETTINGS:
        assert (
            figures[f"pope_{setting}_recall"].value == figures[f"pope_{setting}_yes"].value == 1.0
        )
        assert figures[f"pope_{setting}_acc"].value == 0.5
        assert figures[f"pope_{setting}_f1"].value == pytest.approx(2 / 3, abs=1e-4)
    again = list(asked)
    asked.clear()
    hallucination(yes, scene_folder, None, False, 0)
    assert asked == again, "the same seed asks the same questions"
