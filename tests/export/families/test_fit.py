"""int4 of imported models: passages read by transformers' class, layers stepped as in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_mm_export.families.fit import Passage, fit_blocks
from edge_mm_export.families.subject import open_folder
from edge_mm_export.hadamard import rotated
from edge_mm_export.hessians import layer_hessians
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.quantise import quantise_blocks

from .folders import write_folder

NAMES = ("gemma3", "qwen3-vl", "paligemma", "llava-siglip")
"""Masks of their own by layer, rows added between layers, a prompt that sees itself, plain."""


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_layers_one_by_one_are_the_whole_model(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", name, torch.bfloat16)
    size = (64, 48) if "qwen" in name else None
    model = open_folder(tmp_path / "model", size=size).model
    torch.manual_seed(2)
    pixels = torch.randn(1, 3, model.height, model.width).numpy()
    first = model.config.text_config.vocab_size
    prompt = [1, *range(first, first + model.rows), 60, 61, 62, 63]
    answer = [70, 71, 72]
    passage = Passage(prompt + answer, len(prompt), pixels)
    state = model.reference.first_state(*passage)
    expected = model.reference.read(passage.ids, pixels, prompt=len(prompt))
    assert state.asked == len(prompt) - 1
    model.release()
    for layer in model.language.layers:
        state = state.after(layer.float())
    hidden = model.language.norm.float()(state.hidden)
    logits = model.head.float()(hidden[:, -1]).numpy()
    cap = getattr(model.config.text_config, "final_logit_softcapping", None)
    logits = logits if cap is None else cap * np.tanh(logits / cap)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("target", ["cuda", "cpu"])
def test_blocks_are_fitted_to_what_is_read(target: str, tmp_path: Path) -> None:
    """On `cpu` the weights that are fitted are those of a rotated decoder."""
    write_folder(tmp_path / "model", "llava-siglip")
    model = open_folder(tmp_path / "model").model
    first = model.config.text_config.vocab_size
    passages = [
        Passage(
            [1, *range(first, first + model.rows), 60 + seed, 90, 91 + seed, 33, 34],
            model.rows + 3,
            torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).numpy(),
        )
        for seed in range(6)
    ]
    stored = PRECISIONS[target]["int4"]
    blocks = fit_blocks(model, passages, stored)
    parts = {f"layers.{i}.{part}" for i in range(3) for part in ("qkv", "o", "gate_up", "down")}
    assert blocks.keys() == parts | {"lm_head"}
    assert all(weight.bits == 4 for weight in blocks.values())

    states = [model.reference.first_state(*passage) for passage in passages]
    model.release()
    layer = model.language.layers[0].float()
    hessian = layer_hessians(layer, states, last=False)["down"]
    spec, weights, _ = rotated(model.spec, model.weights, stored)
    assert spec.rotated == (target == "cpu")
    exact = weights["model.layers.0.mlp.down_proj.weight"]

    def lost(rounded: np.ndarray) -> float:
        off = (rounded - exact).astype(np.float64)
        return float(np.trace(off @ hessian @ off.T))

    nearest = quantise_blocks(exact, 4, block=stored.block_of("layers.0.down", 160)).dequantise()
    assert lost(blocks["layers.0.down"].dequantise()) < 0.8 * lost(nearest)
