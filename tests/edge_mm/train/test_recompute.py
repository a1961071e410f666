"""Activation checkpointing changes nothing but the memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from edge_mm.data.samples import SceneSamples, collate
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.train.losses import Losses, Words
from edge_mm.train.recipe import load_recipe
from edge_mm.train.recompute import checkpoint_activations
from edge_mm_runtime.errors import UsageError

LOSSES = {"language": 1.0, "pointing": 1.0, "mentions": 1.0, "sea": 1.0}


def test_losses_and_gradients_stay_and_layers_run_twice(
    scene_folder: Path, tokenizer, tiny_config: ModelConfig, tiny_model: EdgeMM
) -> None:
    samples = SceneSamples([scene_folder], tiny_config, tokenizer, 4, 300, seed=1)
    batch = collate([samples[0], samples[1]])

    def run(model: EdgeMM) -> tuple[dict, dict, list[int]]:
        runs = [0, 0]
        layers = model.lm.model.layers[1].mlp, model.vision.encoder.layers[0].mlp
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(  # recomputing ends early
                lambda *_, number=number: runs.__setitem__(number, runs[number] + 1)
            )
        losses = Losses(model.train(), LOSSES, Words(tokenizer))(batch)
        sum(losses.values()).backward()
        named = model.named_parameters()
        return losses, {n: p.grad for n, p in named if p.grad is not None}, runs

    plain = copy.deepcopy(tiny_model)
    checkpoint_activations(tiny_model)
    (losses, gradients, once), (ours, theirs, twice) = run(plain), run(tiny_model)
    assert (once, twice) == ([1, 1], [2, 2])
    assert len(gradients) > 20 and gradients.keys() == theirs.keys()
    for expected, found in ((losses, ours), (gradients, theirs)):
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=0, rtol=0, msg=name)


def test_a_policy_needs_the_cache(recipe_file: Path) -> None:
    policy = "stages.2={name: p, steps: 1, parts: [language], losses: {policy: 1}}"
    with pytest.raises(UsageError, match="stage p: the loss policy"):
        load_recipe(recipe_file, [policy, "train.activation_checkpointing=true"])
