"""Given questions: what questions.json means, and how training samples mix them in."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from edge_mm.data.formats.given import answerable, given_questions
from edge_mm.data.questions import MAKERS
from edge_mm.data.samples import SceneSamples, collate
from edge_mm.data.scenes import read_frame, read_scenes, read_segmentation
from edge_mm.model.config import ModelConfig
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grounding import parse

CUP = {"id": 1, "kind": "cup", "color": "red", "box_xyxy": [60, 0, 90, 50]}
BOWL = {"id": 2, "kind": "bowl", "color": None, "box_xyxy": [10, 0, 40, 50], "point_xy": [20, 10]}


def folder_with(
    folder: Path, questions: list[dict], objects: tuple[dict, ...] = (CUP, BOWL)
) -> Path:
    scene = {"id": "s", "image": "s.png", "width": 100, "height": 50, "objects": objects}
    asked = {"pictures": [{"file": "s.png", "questions": questions}]}
    (folder / "scenes.json").write_text(json.dumps({"schema": 1, "scenes": [scene]}))
    (folder / "questions.json").write_text(json.dumps(asked))
    return folder


def test_labels_make_the_answers(tmp_path: Path) -> None:
    steps = "pick <ref>red cup</ref><box><loc076><loc000><loc115><loc127></box>"
    folder = folder_with(
        tmp_path,
        [
            {"text": "find all", "objects": [0, 1]},
            {"text": "find the cup", "objects": [0]},
            {"text": "point to the bowl", "mode": "point", "objects": [1]},
            {"text": "find the fork", "objects": []},
            {"text": "how many?", "answer": "2"},
            {"text": "take the cup", "mode": "steps", "answer": steps, "objects": [0]},
            {"text": "nobody knows"},
        ],
    )
    every, cup, point, absent, free, plan = given_questions(folder)["s"]
    assert (every.type, every.objects) == ("locate_all", (2, 1))  # from left to right
    assert [region.label for region in parse(every.answer).objects] == ["bowl", "red cup"]
    assert (cup.type, cup.objects, cup.about) == ("locate", (1,), (1,))
    (region,) = parse(point.answer).objects
    assert point.type == "point" and region.point == pytest.approx((0.2, 0.2), abs=0.5 / 128)
    assert (absent.type, absent.answer, absent.about) == ("absent", "<none>", ())
    assert (free.type, free.answer, free.objects, free.about) == ("free", "2", (), None)
    assert (plan.type, plan.answer, plan.objects) == ("steps", steps, (1,))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"text": "t", "objects": [2]}, "names objects"),
        ({"text": "t", "answer": "<ref>a</ref><point><loc000><loc001></point>"}, "1 places for 0"),
        ({"text": "t", "where": 1}, "where"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, question: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given_questions(folder_with(tmp_path, [question]))


def test_labels_that_do_not_tell_are_not_asked(tmp_path: Path) -> None:
    def types(*objects: dict) -> set[str]:
        return set(MAKERS) - set(answerable(read_scenes(folder_with(tmp_path, [], objects))))

    assert types(CUP | {"size_m": 0.1}) == set()
    assert types(CUP, BOWL | {"size_m": 0.1}) == {"compare"}
    assert types(CUP | {"kind": "bear"}) == {"compare", "absent", "exist", "count", "steps"}


@pytest.fixture()
def mixed(scene_folder: Path, tmp_path: Path) -> Path:
    """Copies of the drawn scenes with a question on the left object of the first one."""
    file = json.loads((scene_folder / "scenes.json").read_text())
    for scene in file["scenes"]:
        scene["image"] = str(scene_folder / scene["image"])
        scene["segmentation"] = str(scene_folder / scene["segmentation"])
    (tmp_path / "scenes.json").write_text(json.dumps(file))
    questions = [{"text": f"given {n}", "objects": [0]} for n in range(5)]
    asked = {"pictures": [{"file": file["scenes"][0]["image"], "questions": questions}]}
    (tmp_path / "questions.json").write_text(json.dumps(asked))
    return tmp_path


def given_in(samples: SceneSamples, row) -> int:
    return samples.maker.packer.tokenizer.decode(row.ids, skip_special_tokens=False).count("given")


def test_half_are_given_and_the_picture_stays(
    mixed: Path, tokenizer, tiny_config: ModelConfig
) -> None:
    samples = SceneSamples([mixed], tiny_config, tokenizer, 6, 600, seed=1)
    scene, *others = read_scenes(mixed)
    ids = read_segmentation(mixed, scene)
    assert ids is not None
    centres = (np.arange(30) + 0.5) / 30
    rows, columns = (centres * scene.height).astype(int), (centres * scene.width).astype(int)
    for seed in range(8):
        sample = samples.sample(mixed, scene, random.Random(seed))
        assert sample is not None
        assert given_in(samples, sample["row"]) == 3
        assert max(sample["row"].segments) > 3
        uncropped = ids[np.ix_(rows, columns)].ravel()
        assert (sample["ids"] == uncropped).mean() > 0.99
    assert read_frame(mixed, scene).shape[:2] == ids.shape
    other = samples.sample(mixed, others[0], random.Random(0))
    assert other is not None and given_in(samples, other["row"]) == 0


def test_unlabelled_pictures_get_given_questions_only(
    mixed: Path, tokenizer, tiny_config: ModelConfig
) -> None:
    file = json.loads((mixed / "scenes.json").read_text())
    file["scenes"] = file["scenes"][:1]
    file["scenes"][0]["objects"] = []
    (mixed / "scenes.json").write_text(json.dumps(file))
    long = "given " * 400
    questions = [
        {"text": long, "answer": "too long"},
        {"text": "given cup?", "answer": "yes"},
        {"text": "given picture", "mode": "caption", "answer": "a red cup"},
    ]
    asked = {"pictures": [{"file": file["scenes"][0]["image"], "questions": questions}]}
    (mixed / "questions.json").write_text(json.dumps(asked))
    samples = SceneSamples([mixed], tiny_config, tokenizer, 6, 600, seed=1)
    sample = samples[0]
    assert max(sample["row"].segments) == 2 and given_in(samples, sample["row"]) == 2
    assert sample["row"].mentions == []  # nobody said where cups are
    assert tokenizer.decode(sample["caption"]).strip() == "a red cup"
    batch = collate([sample])
    assert not batch.kinds.any() and len(batch.pointers) == 0
    asked["pictures"][0]["questions"] = questions[1:2]
    (mixed / "questions.json").write_text(json.dumps(asked))
    sample = SceneSamples([mixed], tiny_config, tokenizer, 6, 600, seed=1)[0]
    assert tokenizer.decode(sample["caption"]).strip() == "yes"  # and not "nothing"


def test_kinds_without_a_word_are_background_to_looks(
    mixed: Path, tokenizer, tiny_config: ModelConfig
) -> None:
    file = json.loads((mixed / "scenes.json").read_text())
    for item in file["scenes"][0]["objects"]:
        item |= {"kind": "teddy bear", "color": None}
    (mixed / "scenes.json").write_text(json.dumps(file))
    samples = SceneSamples([mixed], tiny_config, tokenizer, 6, 600, seed=1)
    sample = samples.sample(mixed, read_scenes(mixed)[0], random.Random(1))
    assert sample is not None and (sample["ids"] > 0).any()
    assert not sample["kinds"].any() and not sample["colors"].any()
