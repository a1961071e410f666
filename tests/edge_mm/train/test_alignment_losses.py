"""The losses of features against numpy; what they learn themselves; stopped and gone on with."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from edge_mm.data.samples import SceneSamples, collate
from edge_mm.model.checkpoint import load_model
from edge_mm.model.config import ModelConfig, ProjectorConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.siglip import BIAS
from edge_mm.train import alignment_losses
from edge_mm.train.alignment_losses import (
    OWN_PARAMETERS,
    PAIR_LOSSES,
    LossParameters,
    Words,
    pair_losses,
    token_losses,
)
from edge_mm.train.loop import Run, train
from edge_mm.train.losses import Losses, check_losses
from edge_mm.train.recipe import Stage, load_recipe
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.train.conftest import log_lines

ALL = ("contrastive", "info_nce", "siglip", "hard_negatives", "sea", "sea_words", "adversarial")
STOPPED = [
    "train.checkpoint_minutes=0",
    "stages=[{name: align, steps: 4, batch_size: 2, parts: [vision, projector, language], "
    "warmup: 1, losses: {siglip: 1, adversarial: 1, sea_words: 1, hard_negatives: 1}}]",
]


def cosines(a: Tensor, b: Tensor) -> np.ndarray:
    a, b = (rows.double().numpy() for rows in (a, b))
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("hardest", [2, 8])
def test_pictures_and_captions_in_numpy(monkeypatch: pytest.MonkeyPatch, hardest: int) -> None:
    """Rows 1 and 4 have the same caption, which is padded."""
    monkeypatch.setattr(alignment_losses, "HARDEST", hardest)
    torch.manual_seed(0)
    image, text, scale = torch.randn(5, 8), torch.randn(5, 8), 3.0
    captions = torch.tensor([[2, 7, 3, 0], [2, 8, 3, 0], [2, 9, 3, 0], [2, 8, 3, 3], [2, 8, 3, 0]])
    log_temperature = torch.tensor(np.log(scale), requires_grad=True)
    model: Any = SimpleNamespace(
        image_features=lambda _: image,
        caption_features=lambda _: text,
        log_temperature=log_temperature,
    )
    batch: Any = SimpleNamespace(caption_ids=captions)
    found = pair_losses(model, PAIR_LOSSES, batch, image, LossParameters({"siglip"}, 8))
    assert found.keys() == PAIR_LOSSES

    cosine = cosines(image, text)
    to_text, to_image = (-log_softmax(scale * c).diagonal().mean() for c in (cosine, cosine.T))
    logits = 10 * cosine + BIAS
    sign = 2 * np.eye(5) - 1
    hard = []
    for row in range(5):
        wrong = [j for j in range(5) if j != row and {row, j} != {1, 4}]
        wrong = sorted(wrong, key=lambda j, row=row: -cosine[row, j])[:hardest]
        hard.append(-log_softmax(scale * cosine[row, [row, *wrong]])[0])
    expected = {
        "info_nce": to_text,
        "contrastive": (to_text + to_image) / 2,
        "siglip": np.log1p(np.exp(-sign * logits)).sum() / 5,
        "hard_negatives": np.mean(hard),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name
    found["hard_negatives"].backward()
    assert torch.isfinite(log_temperature.grad)


def test_a_sure_teacher_draws_the_nearest_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 x 4 patches of two pictures, 2 x 2 projected tokens."""
    monkeypatch.setattr(alignment_losses, "TEACHER_TEMPERATURE", 1e-4)
    torch.manual_seed(0)
    tokens, image_embeds = torch.randn(2, 16, 8), torch.randn(2, 4, 6, requires_grad=True)
    said = torch.randn(len(KINDS + COLORS), 8)
    table = nn.Embedding(60, 6)
    see = nn.Linear(8, 8, bias=False)
    model: Any = SimpleNamespace(
        projector=SimpleNamespace(grid=2),
        image_projection=see,
        caption_features=lambda _: said,
        lm=SimpleNamespace(get_input_embeddings=lambda: table),
    )
    words: Any = SimpleNamespace(
        kinds=[[number, 59] for number in range(len(KINDS))],
        colors=[[number] for number in range(len(KINDS), len(KINDS + COLORS))],
        captions=torch.zeros(1),
        embeddings=Words.embeddings,
    )
    batch: Any = SimpleNamespace(input_ids=torch.tensor([[5]]))
    own = LossParameters((), 6)
    loss = token_losses(model, {"sea_words"}, batch, tokens, image_embeds, words, own)["sea_words"]

    square = tokens.view(2, 4, 4, 8)
    blocks = [
        square[i, y : y + 2, x : x + 2].mean((0, 1)) for i in (0, 1) for y in (0, 2) for x in (0, 2)
    ]
    with torch.no_grad():
        nearest = cosines(see(torch.stack(blocks)), said).argmax(1)
        rows = [table.weight[[i, 59] if i < len(KINDS) else [i]].mean(0) for i in range(len(said))]
        chances = log_softmax(cosines(image_embeds.view(8, 6), torch.stack(rows)) / 0.1)
    assert loss.item() == pytest.approx(-chances[np.arange(8), nearest].mean(), rel=1e-5)
    loss.backward()
    assert see.weight.grad is None and image_embeds.grad.abs().sum() > 0


def test_a_discriminator_is_shown_text_and_deceived_by_the_picture() -> None:
    """Of each row as many text tokens as image tokens, spread over it; ids from 50 on are images,
    and what follows in segment -1 is padding."""
    torch.manual_seed(0)
    table = nn.Embedding(50, 6)
    model: Any = SimpleNamespace(
        config=SimpleNamespace(language=SimpleNamespace(vocab_size=50)),
        lm=SimpleNamespace(get_input_embeddings=lambda: table),
    )
    ids = torch.tensor([[1, 50, 51, 2, 3, 4, 5, 6], [1, 50, 51, 7, 0, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 1, -1, -1, -1, -1]])
    batch: Any = SimpleNamespace(input_ids=ids, segments=segments)
    image_embeds = torch.randn(2, 3, 6, requires_grad=True)
    own = LossParameters({"adversarial"}, 6)
    words: Any = None
    found = token_losses(model, {"adversarial"}, batch, image_embeds, image_embeds, words, own)
    found["adversarial"].backward()

    shown = table.weight[[1, 3, 5, 1, 1, 7]].detach()
    image = image_embeds.detach().clone().requires_grad_()
    odds = own.discriminator(torch.cat([image.flatten(0, 1), shown]))
    answers = torch.tensor([1.0] * 6 + [0.0] * 6)
    plain = F.binary_cross_entropy_with_logits(odds, answers)
    torch.testing.assert_close(found["adversarial"], plain)
    (gradient,) = torch.autograd.grad(plain, image)
    torch.testing.assert_close(image_embeds.grad, -gradient)
    assert table.weight.grad is None


def test_every_loss_learns(
    scene_folder: Path, tiny_config: ModelConfig, tiny_model: EdgeMM, tokenizer
) -> None:
    """On one batch, each picture with its own tokens. The projector, which works against the
    discriminator, stands still for it."""
    samples = SceneSamples([scene_folder], tiny_config, tokenizer, 2, 200, seed=1)
    batch = collate([samples[i] for i in range(4)])
    torch.manual_seed(0)
    tiny_model.vision = Still(torch.randn(4, 1, 32) + torch.randn(4, tiny_config.image_tokens, 32))
    for name in ALL:
        model = copy.deepcopy(tiny_model)
        model.projector.requires_grad_(name != "adversarial")
        module = Losses(model, {name: 1.0}, Words(tokenizer))
        optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=3e-3)
        curve = []
        for _ in range(12):
            loss = module(batch)[name]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        assert curve[-1] < 0.9 * curve[0], (name, curve)


class Still(nn.Module):
    """A vision tower that always sees the same tokens [B,N,D]."""

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens = tokens

    def forward(self, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.tokens, self.tokens, self.tokens


def test_what_losses_learn_is_resumed_to_the_bit_and_not_shipped(
    tmp_path: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, save = load_recipe(recipe_file, STOPPED), Run.save
    train(recipe, tmp_path / "whole")

    def save_until_the_power_goes(run: Run) -> None:
        save(run)
        if run.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save_until_the_power_goes)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped")
    state = tmp_path / "stopped" / "state"
    learned = load_file(str(state / "losses.safetensors"))
    assert learned["bias"] != BIAS and any(name.startswith("discriminator") for name in learned)
    fresh = LossParameters(OWN_PARAMETERS, 32).state_dict()
    assert learned.keys() == fresh.keys()
    assert {f"own.{name}|exp_avg" for name in learned} <= load_file(
        str(state / "optimizer.safetensors")
    ).keys()
    load_model(tmp_path / "stopped" / "checkpoint")  # strictly

    train(recipe, tmp_path / "stopped", resume=True)
    one, two = (
        load_file(str(tmp_path / out / "state" / "weights.safetensors"))
        for out in ("whole", "stopped")
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0, msg=name)
    for a, b in zip(*(log_lines(tmp_path / out) for out in ("whole", "stopped")), strict=True):
        assert {**a, "samples_per_s": 0} == {**b, "samples_per_s": 0}


def test_what_does_not_go_together_is_said(recipe_file: Path, tiny_config: ModelConfig) -> None:
    qformer = ProjectorConfig("qformer", queries=4, heads=2)
    placeless = EdgeMM(msgspec.structs.replace(tiny_config, projector=qformer))
    for loss, shared, message in (
        ("sea_words", False, r"projector whose tokens have places.*qformer"),
        ("siglip", True, r"FSDP and DeepSpeed .*ddp\.yaml"),
        ("adversarial", True, r"FSDP and DeepSpeed .*ddp\.yaml"),
    ):
        stage = Stage("s", steps=1, parts=("projector",), losses={loss: 1.0})
        with pytest.raises(UsageError, match=message):
            check_losses([stage], placeless, shared)
        check_losses([msgspec.structs.replace(stage, steps=0)], placeless, shared)
    with pytest.raises(UsageError, match=r"info_nce compare .* at least twice accumulate"):
        load_recipe(recipe_file, ["stages.0.losses={info_nce: 1}", "stages.0.accumulate=2"])
