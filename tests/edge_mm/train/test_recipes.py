"""Every shipped recipe runs, with a tiny model and the drawn world in the place of its own."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from edge_mm.model.checkpoint import load_model, save_checkpoint
from edge_mm.model.config import ModelConfig, own_image
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe
from tests.edge_mm.conftest import VOCABULARY
from tests.edge_mm.train.conftest import log_lines

RECIPES = sorted(path.stem for path in Path("recipes").glob("*.yaml"))
STEPS = 20
SIZE, GRID = 80, 5  # pixels and image tokens of a side
TINY = [
    "model.backbone=null",
    "model.tower=null",
    "model.language_model=null",
    f"model.vision={{image_size: {SIZE}, token_grid: {GRID}, neck_channels: 16, hidden_size: 32, "
    "layers: 1, heads: 2, intermediate_size: 32}",
    f"model.language={{vocab_size: {VOCABULARY}, hidden_size: 32, intermediate_size: 32, "
    "num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16}",
]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(
    tmp_path: Path, name: str, scene_folder: Path, tiny_config: ModelConfig, tokenizer
) -> None:
    path = Path("recipes") / f"{name}.yaml"
    stages = load_recipe(path, []).stages
    small = [f"data.train=[{scene_folder}]", "data.workers=0", f"train.max_steps={STEPS}",
             "data.questions=2"]  # fmt: skip
    small += [f"stages.{number}.batch_size=2" for number in range(len(stages))]
    if load_recipe(path, []).model.init:
        vision = msgspec.structs.replace(tiny_config.vision, image_size=SIZE, token_grid=GRID)
        model = EdgeMM(msgspec.structs.replace(tiny_config, vision=vision, image=own_image(vision)))
        save_checkpoint(tmp_path / "init", model, model.state_dict(), tokenizer, {})
        small.append(f"model.init={tmp_path / 'init'}")
    else:
        small += TINY
    out = tmp_path / "run"
    checkpoint = train(load_recipe(path, small), out)
    ran = {line["stage"]: line["step"] for line in log_lines(out)}
    assert ran == {stage.name: STEPS for stage in stages if stage.steps}
    weights = load_model(checkpoint).state_dict()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
