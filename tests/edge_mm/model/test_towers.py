"""Vision towers of transformers: what is read of them is what transformers gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoConfig, CLIPModel

from edge_mm.model.checkpoint import load_model, save_checkpoint
from edge_mm.model.components import TowerConfig
from edge_mm.model.config import ProjectorConfig
from edge_mm.model.feature_statistics import fit_input_norms, measure_features, reading_layers
from edge_mm_runtime.errors import EdgeMMError, UsageError
from tests.edge_mm.model import components
from tests.edge_mm.model.components import BEFORE_PATCHES, OURS, SIZES, TOWERS, small


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", TOWERS)
def test_features_are_the_patches_of_a_hidden_state(name: str) -> None:
    model = small(components.tower(name, feature_layer=1))
    pixels = torch.randn(2, 3, 64, 64)
    inputs = {"pixel_values": pixels}
    if name == "SigLIP 2":
        from transformers.models.siglip2 import image_processing_pil_siglip2 as processing

        found = [processing.convert_image_to_patches(p.numpy(), 16) for p in pixels]
        inputs = {
            "pixel_values": torch.from_numpy(np.stack(found)),
            "spatial_shapes": torch.tensor([[4, 4]] * 2),
            "pixel_attention_mask": None,
        }
    with torch.no_grad():
        _, fine, features = model.vision(pixels)
        states = model.vision.encoder(**inputs, output_hidden_states=True).hidden_states
        embeds, keys, boxes = model.vision_graph()(pixels)
    expected = states[1][:, BEFORE_PATCHES.get(name, 0) :]
    torch.testing.assert_close(features, expected)
    assert model.config.vision.token_grid == 4 and fine.shape == (2, 16, 8, 8)
    assert embeds.shape == (2, 16, OURS.hidden_size)
    assert keys.shape[1] == 64 and boxes.shape == (2, 64, 6)


@pytest.mark.parametrize("name", TOWERS)
def test_tokens_lie_row_by_row(name: str) -> None:
    model = small(components.tower(name, feature_layer=0))
    pixels = torch.randn(1, 3, 64, 64)
    other = pixels.clone()
    other[:, :, 16:32, 48:64] += 1.0  # row 1, column 3
    with torch.no_grad():
        before, after = (model.vision(p)[2] for p in (pixels, other))
    changed = (before - after).abs().amax(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [4 + 3]


@pytest.mark.parametrize("name", components.TIMM)
def test_timm(name: str, tmp_path: Path) -> None:
    pytest.importorskip("timm", exc_type=Exception)
    model = small(components.timm_tower(name))
    pixels = torch.randn(1, 3, 64, 64)
    timm_model = model.vision.encoder.timm_model
    with torch.no_grad():
        features = model.vision(pixels)[2]
        (expected,) = timm_model.forward_intermediates(pixels, indices=1, intermediates_only=True)
    torch.testing.assert_close(features, expected.flatten(2).transpose(1, 2))
    comes_back(model, tmp_path)


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(EdgeMMError, match=r"edge-mm\[timm\]"):
        small(components.timm_tower("EVA-02"))


@pytest.mark.parametrize("name", ["CLIP", "SigLIP 2", "DINOv3"])
def test_a_checkpoint_comes_back_without_the_hub(name: str, tmp_path: Path) -> None:
    comes_back(small(components.tower(name, feature_layer=-2)), tmp_path)


def comes_back(model, folder: Path) -> None:
    words = Tokenizer(BPE())  # not read here
    save_checkpoint(folder / "a", model, model.state_dict(), words, {}, torch.float32)
    loaded = load_model(folder / "a")
    size = model.config.vision.image_size
    pixels = torch.randn(1, 3, size, size)
    assert loaded.config == model.config and loaded.config.image.width == size
    with torch.no_grad():
        for ours, theirs in zip(
            model.vision_graph()(pixels), loaded.vision_graph()(pixels), strict=True
        ):
            torch.testing.assert_close(theirs, ours)


@pytest.fixture()
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP of both halves on disk, as the hub has them."""
    part = SIZES | {"num_attention_heads": 2}
    config = AutoConfig.for_model(
        "clip",
        text_config={**part, "vocab_size": 64},
        vision_config={**part, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    statistics = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(statistics))
    return tmp_path / "clip"


def test_a_tower_from_a_folder(clip_folder: Path) -> None:
    model = small(TowerConfig(name=str(clip_folder), feature_layer=-2))
    pixels = torch.randn(1, 3, 64, 64)
    reference = CLIPModel.from_pretrained(clip_folder).eval().vision_model
    with torch.no_grad():
        expected = reference(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(model.vision(pixels)[2], expected)
    assert model.config.image.mean == (0.48, 0.46, 0.41)
    assert model.config.image.std == (0.27, 0.26, 0.28)


def test_larger_pictures_than_it_was_made_for(clip_folder: Path) -> None:
    model = small(TowerConfig(name=str(clip_folder), image_size=96))
    with torch.no_grad():
        tokens, fine, _ = model.vision(torch.randn(1, 3, 96, 96))
    assert tokens.shape[1] == 36 and fine.shape[2:] == (12, 12)


@pytest.mark.parametrize(
    ("grid_of", "expected"),
    [((224, 14), (16, 32)), ((384, 14), (27, 54)), ((224, 32), (7, 28)), ((224, 16), (14, 28))],
)
def test_the_fine_grid_divides_into_tokens(grid_of, expected) -> None:
    size, patch = grid_of
    config = components.tower("SigLIP").config | {"image_size": size, "patch_size": patch}
    vision = small(TowerConfig(config=config)).config.vision
    assert (vision.token_grid, vision.cells) == expected


def test_what_cannot_be_used_is_said(clip_folder: Path, tmp_path: Path) -> None:
    for tower, message in (
        (TowerConfig(name="nobody/nothing"), r"tower\.download: true"),
        (TowerConfig(name=str(clip_folder), feature_layer=7), "-3 to 2"),
        (TowerConfig(config={"model_type": "clop"}), "clop"),
        (
            TowerConfig(config={"model_type": "clip_vision_model", "hidden_size": "x"}),
            "hidden_size",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            small(tower)
    (clip_folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"tower\.mean and tower\.std"):
        small(TowerConfig(name=str(clip_folder)))
    with pytest.raises(ValueError, match="model_type"):
        TowerConfig()


def test_weights_that_are_missing_are_refused(clip_folder: Path) -> None:
    config = json.loads((clip_folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 3
    (clip_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="no fitting weights"):
        small(TowerConfig(name=str(clip_folder)))


@pytest.mark.parametrize(
    "projector",
    [
        ProjectorConfig("linear"),
        ProjectorConfig("mlp"),
        ProjectorConfig("pixel_shuffle"),
        ProjectorConfig("qformer", layers=1, queries=4),
        ProjectorConfig("perceiver", layers=1, queries=4),
        ProjectorConfig("multi_scale", feature_layers=(1, -1)),
    ],
    ids=lambda config: config.kind,
)
@torch.no_grad()
def test_folding_is_normalising(projector: ProjectorConfig) -> None:
    model = small(components.tower("DINOv2"), projector=projector)
    with torch.no_grad():  # features that are not at all alike
        model.vision.encoder.embeddings.position_embeddings.mul_(20).add_(
            torch.linspace(-3, 5, SIZES["hidden_size"])
        )
    batches = [torch.randn(3, 3, 64, 64) for _ in range(2)]
    for layer in reading_layers(model):
        layer.bias.data.normal_()
        layer.weight.data.add_(torch.randn_like(layer.weight), alpha=0.1)
    entering = {
        layer: torch.cat(rows).flatten(0, -2) for layer, rows in inputs(model, batches).items()
    }
    measured = measure_features(model, batches)
    before = {layer: layer(rows) for layer, rows in entering.items()}
    weights = {layer: (layer.weight.clone(), layer.bias.clone()) for layer in entering}
    fit_input_norms(model, batches)
    for layer, rows in entering.items():
        weight, bias = weights[layer]
        if isinstance(layer, torch.nn.LayerNorm):
            rows = torch.nn.functional.layer_norm(rows, rows.shape[-1:], eps=layer.eps)
        std, mean = torch.std_mean(rows, 0, correction=0)
        torch.testing.assert_close(measured[layer].mean, mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(measured[layer].std, std, atol=1e-4, rtol=1e-4)
        normed = (rows - mean) / std
        explicit = (
            normed * weight + bias
            if isinstance(layer, torch.nn.LayerNorm)
            else normed @ weight.T + bias
        )
        after = layer(entering[layer])
        torch.testing.assert_close(after, explicit, atol=2e-3, rtol=2e-3)
        assert not torch.allclose(after, before[layer], atol=0.1)


def inputs(model, batches) -> dict[torch.nn.Module, list[torch.Tensor]]:
    seen: dict = {layer: [] for layer in reading_layers(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda m, x: seen[m].append(x[0].detach()))
        for layer in seen
    ]
    with torch.no_grad():
        for pixels in batches:
            model.projector(model.vision(pixels)[2])
    for hook in hooks:
        hook.remove()
    return seen


def test_the_top_is_the_last_third() -> None:
    config = components.tower("CLIP").config | {"num_hidden_layers": 6}
    model = small(TowerConfig(config=config))
    bottom, top = model.vision.bottom_and_top()
    names = {id(p): name for name, p in model.vision.encoder.named_parameters()}
    assert {names[id(p)].split(".")[2] for p in top} == {"4", "5"}
    assert sorted(map(id, [*bottom, *top])) == sorted(map(id, model.vision.encoder.parameters()))
