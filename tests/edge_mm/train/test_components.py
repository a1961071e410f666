"""A recipe with a vision tower and a language model that are not ours."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from edge_mm.model.checkpoint import load_model
from edge_mm.model.feature_statistics import measure_features
from edge_mm.train.loop import Run, start_model, train
from edge_mm.train.recipe import load_recipe
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.model.components import language_model, tower
from tests.edge_mm.train.conftest import log_lines


@pytest.fixture()
def overrides() -> list[str]:
    # As JSON, which is YAML too. Two heads of their own: nothing is tied.
    parts = {"tower": tower("CLIP"), "language_model": language_model("Qwen2")}
    made = [f"model.{name}={msgspec.json.encode(value).decode()}" for name, value in parts.items()]
    return [*made, "data.max_tokens=120"]


def test_every_stage_and_back(tmp_path: Path, recipe_file: Path, overrides: list[str]) -> None:
    recipe = load_recipe(recipe_file, [*overrides, "train.average=0.0"])
    checkpoint = train(recipe, tmp_path / "run")
    assert len(log_lines(tmp_path / "run")) == 8
    model = load_model(checkpoint)
    assert model.config.tower.config["model_type"] == "clip_vision_model"
    head, table = model.lm.get_output_embeddings(), model.lm.get_input_embeddings()
    assert not torch.allclose(head.weight, table.weight, atol=0.1)  # each came back

    run = Run(recipe, tmp_path, *start_model(recipe))
    before = {name: p.clone() for name, p in run.model.named_parameters()}
    stage = msgspec.structs.replace(recipe.stages[2], parts=("backbone_top",), steps=1)
    run.run_stage(stage)
    changed = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all(n.startswith("vision.encoder.encoder.layers.1.") for n in changed)


def test_features_are_measured_at_the_start(
    tmp_path: Path, recipe_file: Path, overrides: list[str]
) -> None:
    recipe = load_recipe(recipe_file, overrides)
    run = Run(recipe, tmp_path, *start_model(recipe))
    measured = measure_features(run.model, run.feed.first(recipe.stages[0]))
    first = run.model.projector.layers[0]
    before = first.weight.clone()
    run.measure()
    torch.testing.assert_close(first.weight, before / measured[first].std)
    torch.testing.assert_close(run.average["projector.layers.0.weight"], first.weight)


def test_with_lora_the_new_words_learn_too(
    tmp_path: Path, recipe_file: Path, overrides: list[str]
) -> None:
    more = ["stages.2.parts=[language]", "stages.2.lora={rank: 2}"]
    recipe = load_recipe(recipe_file, [*overrides, *more])
    run = Run(recipe, tmp_path, *start_model(recipe))
    before = {name: tensor.clone() for name, tensor in run.model.lm.state_dict().items()}
    run.run_stage(recipe.stages[2])
    after = run.model.lm.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert tables < changed and all(n.endswith("_proj.weight") for n in changed - tables)


def test_recipes_say_what_is_wrong(recipe_file: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'feature_layer'"):
        load_recipe(recipe_file, ["model.tower={name: x, feature_layr: 1}"])
    with pytest.raises(UsageError, match="needs a name"):
        load_recipe(recipe_file, ["model.language_model={}"])
