"""Training: every stage runs, learns, stops clearly, and goes on as if it had not stopped."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from edge_mm.model.checkpoint import load_model
from edge_mm.train.loop import TOP, Run, TrainingError, rate, start_model, train
from edge_mm.train.recipe import Stage, load_recipe
from edge_mm_runtime.errors import UsageError

RECIPE = """
model:
  name: tiny
  backbone: null
  vision: {neck_channels: 16, hidden_size: 32, layers: 1, heads: 2, intermediate_size: 32}
  language: {vocab_size: 1280, hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1,
             num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16}
data: {train: [FOLDER], questions: 2, max_tokens: 220, workers: 0}
train: {precision: fp32, average: 0.5, muon: true}
stages:
  - {name: contrastive, steps: 2, batch_size: 2, parts: [vision, regions, language],
     losses: {contrastive: 1, looks: 1, boxes: 1}}
  - {name: align, steps: 2, batch_size: 2, parts: [projector], losses: {sea: 1, language: 1}}
  - {name: instruct, steps: 4, batch_size: 2, parts: [vision, projector, regions, language],
     losses: {language: 1, pointing: 1, mentions: 1, boxes: 1, looks: 1, sea: 1},
     warmup: 1, decay: 2}
"""


@pytest.fixture()
def recipe_file(tmp_path: Path, scene_folder: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(scene_folder)))
    return path


def test_all_stages_and_the_same_weights_after_a_stop(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [])
    whole = train(recipe, tmp_path / "whole")
    stages = [
        json.loads(line)["stage"]
        for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    ]
    assert stages == ["contrastive", "align", "instruct"]

    torch.manual_seed(recipe.train.seed)
    stopped = Run(recipe, tmp_path / "stopped", *start_model(recipe))
    (tmp_path / "stopped").mkdir()
    stopped.run_stage(recipe.stages[0])  # saves, and here the power goes
    resumed = train(recipe, tmp_path / "stopped", resume=True)
    one, two = load_model(whole).state_dict(), load_model(resumed).state_dict()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0, msg=name)


def changed_parameters(tmp_path: Path, recipe_file: Path, *overrides: str) -> set[str]:
    """Names of the parameters that the align stage changes."""
    recipe = load_recipe(recipe_file, ["train.average=0.0", *overrides])
    (tmp_path / "run").mkdir()
    run = Run(recipe, tmp_path / "run", *start_model(recipe))
    before = {name: tensor.clone() for name, tensor in run.model.named_parameters()}
    run.run_stage(recipe.stages[1])
    return {
        name
        for name, tensor in run.model.named_parameters()
        if not torch.equal(tensor, before[name])
    }


def test_only_the_parts_of_a_stage_learn(tmp_path: Path, recipe_file: Path) -> None:
    changed = changed_parameters(tmp_path, recipe_file)
    assert {name.split(".")[0] for name in changed} == {"projector"}


def test_the_top_of_the_eye_learns_alone(tmp_path: Path, recipe_file: Path) -> None:
    changed = changed_parameters(tmp_path, recipe_file, "stages.1.parts=[backbone_top]")
    blocks = {int(name.split(".")[3]) for name in changed if name.startswith("vision.backbone")}
    assert blocks == set(range(TOP, 16)) and len(changed) == 6 * len(blocks)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, [])
    model, tokenizer = start_model(recipe)
    with torch.no_grad():
        model.projector.layers[0].weight.fill_(float("nan"))
    run = Run(recipe, tmp_path, model, tokenizer)
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        run.run_stage(recipe.stages[2])
    assert not (tmp_path / "checkpoint").exists()


def test_recipes_are_read_strictly(tmp_path: Path, recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["stages.0.steps=7"]).stages[0].steps == 7
    for override, message in (
        ("train.sed=3", "did you mean 'seed'"),
        ("nothing", "name=value"),
        ("stages.9.steps=1", "0..2"),
        ("stages.0.losses={wish: 1}", "unknown loss 'wish'"),
    ):
        with pytest.raises(UsageError, match=message):
            load_recipe(recipe_file, [override])
    with pytest.raises(UsageError, match="no recipe"):
        load_recipe(tmp_path / "none.yaml", [])


def test_the_rate_rises_stays_and_falls() -> None:
    stage = Stage("s", steps=100, parts=("vision",), losses={"boxes": 1.0}, warmup=10, decay=20)
    rates = [rate(stage, step) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:80] == [1.0] * 70 and rates[-1] < 0.02
    assert all(a >= b for a, b in pairwise(rates[80:]))
