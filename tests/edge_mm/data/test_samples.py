"""Packed samples are what the runtime asks, and packing changes no answer."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from edge_mm.data.augment import crop_and_flip, relight
from edge_mm.data.questions import Question
from edge_mm.data.samples import (
    IGNORE,
    Packer,
    SceneSamples,
    attention_mask,
    cell_targets,
    collate,
)
from edge_mm.data.scenes import (
    Scene,
    SceneObject,
    boxes_as_segmentation,
    read_frame,
    read_scenes,
    read_segmentation,
    seen_objects,
)
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt

QUESTIONS = [
    Question("exist", "Is there a red cup?", "yes"),
    Question(
        "locate",
        "find the blue bowl",
        "<ref>blue bowl</ref><box><loc001><loc002><loc003><loc004></box>",
        (7,),
    ),
]


def test_a_packed_question_is_the_runtimes_prompt(tokenizer, tiny_config: ModelConfig) -> None:
    row = Packer(tokenizer, tiny_config).pack(QUESTIONS, 500)
    prompt = Prompt(NANO_TEMPLATE, "<image>", tiny_config.vision.tokens)
    image = tokenizer.token_to_id("<image>")
    for number, question in enumerate(QUESTIONS, 1):
        asked = tokenizer.encode(prompt.render(question.text), add_special_tokens=False).ids
        packed = [i for i, s in zip(row.ids, row.segments, strict=True) if s in (0, number)]
        rows = [i for i in asked if i == image]
        assert len(rows) == tiny_config.vision.tokens
        words = [i for i in asked if i != image]
        assert [i for i in packed if i < tiny_config.language.vocab_size][: len(words)] == words


def test_labels_follow_and_pointers_point(tokenizer, tiny_config: ModelConfig) -> None:
    row = Packer(tokenizer, tiny_config).pack(QUESTIONS, 500)
    for at, label in enumerate(row.labels):
        assert label == IGNORE or label == row.ids[at + 1]
    assert [item for _, item in row.pointers] == [7]
    assert row.ids[row.pointers[0][0]] == tokenizer.token_to_id("<box>")
    said = [i for i in row.labels if i != IGNORE]
    assert tokenizer.decode(said, skip_special_tokens=False) == "".join(
        q.answer + "<eos>" for q in QUESTIONS
    )


def test_packing_changes_no_logits(tokenizer, tiny_config: ModelConfig, tiny_model: EdgeMM) -> None:
    packer = Packer(tokenizer, tiny_config)
    together, alone = packer.pack(QUESTIONS, 500), packer.pack(QUESTIONS[1:], 500)
    images = torch.randn(1, tiny_config.vision.tokens, tiny_config.language.hidden_size)

    def hidden(row) -> torch.Tensor:
        ids, segments = torch.tensor([row.ids]), torch.tensor([row.segments])
        with torch.no_grad():
            return tiny_model.hidden_states(
                tiny_model.embed(ids, images),
                attention_mask(segments, torch.float32),
                torch.tensor([row.positions]),
            )[-1][0]

    ours = hidden(together)[torch.tensor(together.segments) == 2]
    theirs = hidden(alone)[torch.tensor(alone.segments) == 1]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_samples_are_numbered(scene_folder: Path, tokenizer, tiny_config: ModelConfig) -> None:
    def sample(index: int) -> dict:
        return SceneSamples([scene_folder], tiny_config, tokenizer, 4, 300, seed=1)[index]

    first, again, other = sample(5), sample(5), sample(11)
    assert first["row"].ids == again["row"].ids
    np.testing.assert_array_equal(first["pixels"], again["pixels"])
    assert first["row"].ids != other["row"].ids
    batch = collate([first, other])
    assert batch.input_ids.shape == batch.labels.shape == batch.segments.shape
    for sample_index, position, item in batch.pointers.tolist():
        assert batch.segments[sample_index, position] > 0
        assert item in batch.cell_ids[sample_index]


def test_crops_keep_labels_on_their_pixels(scene_folder: Path) -> None:
    for seed in range(30):
        scene = read_scenes(scene_folder)[seed % 6]
        frame, ids = read_frame(scene_folder, scene), read_segmentation(scene_folder, scene)
        frame, ids, view = crop_and_flip(frame, ids, seen_objects(scene), random.Random(seed))
        height, width = ids.shape
        for item in view:
            rows, columns = np.nonzero(ids == item.id)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(
                np.array(item.box) * [width, height, width, height], box, atol=1e-6
            )
        targets = cell_targets(ids, view, 30)
        assert set(targets["ids"]) <= {0, *(item.id for item in view)}
        assert relight(frame, random.Random(seed)).shape == frame.shape


def test_mentions_and_subjects_have_their_cells(
    scene_folder: Path, tokenizer, tiny_config: ModelConfig
) -> None:
    samples = SceneSamples([scene_folder], tiny_config, tokenizer, 6, 400, seed=1)
    batch = collate([samples[0], samples[1]])
    assert len(batch.mentions) and len(batch.subjects)
    assistant = tokenizer.token_to_id("<assistant>")
    for (sample, position), cells in zip(batch.subjects, batch.subject_cells, strict=True):
        assert batch.input_ids[sample, position] == assistant
        assert not (cells & (batch.cell_ids[sample] == 0)).any()
    for (sample, position), cells in zip(batch.mentions, batch.mentioned, strict=True):
        word = tokenizer.decode([int(batch.input_ids[sample, position])])
        assert word.strip() and batch.labels[sample, position] == IGNORE
        kinds = batch.kinds[sample][cells].unique()
        assert 0 not in kinds
    assert batch.mentioned.any()


def test_what_is_spoken_of_has_its_place(
    scene_folder: Path, tokenizer, tiny_config: ModelConfig
) -> None:
    samples = SceneSamples([scene_folder], tiny_config, tokenizer, 6, 400, seed=1)
    batch = collate([samples[0], samples[1]])
    cells = torch.cat([batch.mentioned, batch.subject_cells])
    owner = torch.cat([batch.mentions, batch.subjects])[:, 0]
    places = torch.cat([batch.mention_places, batch.subject_places])
    known = 0
    for sample, shown, place in zip(owner, cells, places, strict=True):
        ids = batch.cell_ids[sample][shown].unique()
        if len(ids) != 1:  # nothing, or several: no one place
            assert place.isnan().all()
            continue
        known += 1
        torch.testing.assert_close(place[:4], batch.cell_boxes[sample][shown][0, :4])
        x, y = place[4:6].tolist()
        assert place[0] - 0.1 < x < place[2] + 0.1 and place[1] < y
    assert known


def test_a_box_over_the_border_keeps_its_pixels() -> None:
    item = SceneObject(1, "cup", None, (-3.0, -2.0, 8.0, 6.0))
    drawn = boxes_as_segmentation(Scene("0", "0.png", 20, 10, (item,)))
    assert (drawn[:6, :8] == 1).all() and drawn.sum() == 48
