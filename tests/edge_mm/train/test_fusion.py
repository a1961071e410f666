"""A stage for the gated blocks alone: the language model that they were put into stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edge_mm.model.checkpoint import load_model
from edge_mm.train.loop import start_model, train
from edge_mm.train.recipe import load_recipe


@pytest.mark.parametrize("kind", ["cross_attention", "late"])
def test_only_the_blocks_learn(tmp_path: Path, recipe_file: Path, kind: str) -> None:
    stage = "{name: fuse, steps: 2, batch_size: 2, parts: [fusion], losses: {language: 1}}"
    recipe = load_recipe(
        recipe_file,
        [
            f"model.fusion={{kind: {kind}, every: 1, layers: 1}}",
            f"stages=[{stage}]",
            "stages.0.warmup=0",
            "train.average=0.0",
        ],
    )
    torch.manual_seed(recipe.train.seed)
    before = start_model(recipe)[0].state_dict()
    after = load_model(train(recipe, tmp_path / "run")).state_dict()
    changed = {
        name
        for name, tensor in after.items()  # saved in bf16
        if not torch.equal(tensor, before[name].bfloat16().to(tensor.dtype))
    }
    blocks = {"query.weight", "output.weight", "up.weight", "down.weight"}
    blocks |= {"attention_gate", "feed_forward_gate"}
    assert changed - {
        f"fusion.blocks.0.{part}_norm.weight" for part in ("attention", "feed_forward")
    } == {"fusion.memory.weight", *(f"fusion.blocks.0.{name}" for name in blocks)}
