"""Every projector: its shapes, what it must not notice, and the numbers of the one we shipped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edge_mm.model.checkpoint import load_config
from edge_mm.model.config import ModelConfig, ProjectorConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.projectors import build_projector
from edge_mm.model.projectors.attention import Attention
from edge_mm.model.projectors.perceiver import MAX_IMAGES, PerceiverProjector
from edge_mm.model.projectors.pixel_shuffle import PixelShuffleProjector
from edge_mm.model.projectors.qformer import QFormerProjector
from edge_mm.model.vision import VisionTower, sine_cosine
from edge_mm.train.alignment_losses import sea_grid
from edge_mm.train.recipe import load_recipe
from edge_mm_runtime.errors import UsageError

KINDS = {
    "linear": (ProjectorConfig("linear"), 100, 10),
    "mlp": (ProjectorConfig(), 100, 10),
    "mlp3": (ProjectorConfig("mlp", layers=3), 100, 10),
    "shuffle2": (ProjectorConfig("pixel_shuffle"), 25, 5),
    "shuffle5": (ProjectorConfig("pixel_shuffle", factor=5), 4, 2),
    "qformer": (ProjectorConfig("qformer", queries=7, heads=2), 7, None),
    "perceiver": (ProjectorConfig("perceiver", queries=6, heads=2), 6, None),
    "multi_scale": (ProjectorConfig("multi_scale", feature_layers=(0, 1, -1)), 100, 10),
}


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tiny_config: ModelConfig) -> tuple[ModelConfig, nn.Module]:
    config = msgspec.structs.replace(tiny_config, projector=KINDS[request.param][0])
    torch.manual_seed(0)
    return config, build_projector(config)


@pytest.fixture
def resampler(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return request.param(32, 24, layers=2, queries=5, heads=4).eval()


def features_for(config: ModelConfig) -> Tensor:
    scales = len(config.projector.feature_layers) or 1
    return torch.randn(2, config.vision.tokens, scales * config.vision.hidden_size)


def test_shapes_and_gradients(case: tuple[ModelConfig, nn.Module]) -> None:
    config, projector = case
    _, tokens, grid = next(known for known in KINDS.values() if known[0] == config.projector)
    assert (config.image_tokens, projector.grid) == (tokens, grid)
    with torch.autocast("cpu", torch.bfloat16):
        embeds = projector(features_for(config))
    assert embeds.shape == (2, tokens, config.language.hidden_size)
    embeds.float().square().sum().backward()
    for name, parameter in projector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_all_but_mlp_begin_with_a_norm(case: tuple[ModelConfig, nn.Module]) -> None:
    config, projector = case
    features = features_for(config)
    with torch.no_grad():
        same = torch.allclose(projector(features), projector(50 * features + 3), atol=1e-3)
    assert same == (config.projector.kind != "mlp")


def test_each_scale_has_a_norm_of_its_own(tiny_config: ModelConfig) -> None:
    config = msgspec.structs.replace(tiny_config, projector=KINDS["multi_scale"][0])
    projector, features = build_projector(config), features_for(config)
    sizes = torch.tensor([1.0, 50.0, 0.3]).repeat_interleave(config.vision.hidden_size)
    with torch.no_grad():
        torch.testing.assert_close(
            projector(features), projector(features * sizes), atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("factor", [2, 3])
def test_pixel_shuffle_puts_each_square_side_by_side(factor: int) -> None:
    projector = PixelShuffleProjector(4, 8, layers=1, token_grid=6, factor=factor)
    tokens = np.random.default_rng(0).normal(size=(2, 36, 4)).astype(np.float32)
    picture, side = tokens.reshape(2, 6, 6, 4), 6 // factor
    expected = [
        [
            picture[b, y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].ravel()
            for y in range(side)
            for x in range(side)
        ]
        for b in range(2)
    ]
    np.testing.assert_array_equal(projector.shuffle(torch.from_numpy(tokens)), np.array(expected))


@torch.no_grad()
@pytest.mark.parametrize("resampler", [QFormerProjector, PerceiverProjector], indirect=True)
def test_resamplers_do_not_see_the_order_of_tokens(resampler: nn.Module) -> None:
    tokens = torch.randn(2, 9, 32)
    embeds = resampler(tokens)
    torch.testing.assert_close(resampler(tokens[:, torch.randperm(9)]), embeds)
    assert (resampler(tokens[:, :8]) - embeds).abs().amax(-1).min() > 1e-3  # but every token
    assert (embeds[:, 0] - embeds[:, 1]).abs().max() > 1e-3  # and no two queries are alike


@torch.no_grad()
@pytest.mark.parametrize("resampler", [PerceiverProjector], indirect=True)
def test_masked_tokens_are_not_there(resampler: nn.Module) -> None:
    tokens = torch.randn(2, 9, 32)
    mask = torch.arange(9)[None] < torch.tensor([[6], [9]])
    embeds = resampler(tokens, mask)
    torch.testing.assert_close(embeds[:1], resampler(tokens[:1, :6]))
    torch.testing.assert_close(embeds[1:], resampler(tokens[1:]))


@torch.no_grad()
@pytest.mark.parametrize("resampler", [PerceiverProjector], indirect=True)
def test_several_images_are_told_apart(resampler: nn.Module) -> None:
    images = torch.randn(2, 3, 9, 32)
    embeds = resampler(images)
    assert embeds.shape == (2, 5, 24)
    torch.testing.assert_close(resampler(images[:, :1]), resampler(images[:, 0]))
    assert (resampler(images.flip(1)) - embeds).abs().max() > 1e-4
    mask = torch.ones(2, 3, 9, dtype=torch.bool)
    mask[:, 2] = False
    torch.testing.assert_close(resampler(images, mask), resampler(images[:, :2]))
    resampler.time.zero_()  # without its embedding an image is only more tokens
    torch.testing.assert_close(resampler(images), resampler(images.flatten(1, 2)))
    with pytest.raises(UsageError, match=rf"{MAX_IMAGES + 1} images .* {MAX_IMAGES}"):
        resampler(torch.randn(1, MAX_IMAGES + 1, 2, 32))


@torch.no_grad()
def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    reference, ours = nn.MultiheadAttention(32, 4, batch_first=True), Attention(32, 4)
    parts = ("query", "key", "value")
    weights = dict(zip(parts, reference.in_proj_weight.chunk(3), strict=True))
    biases = {part: torch.randn(32) for part in parts}
    reference.in_proj_bias.copy_(torch.cat(list(biases.values())))
    for part in parts:
        getattr(ours, part).load_state_dict({"weight": weights[part], "bias": biases[part]})
    ours.output.load_state_dict(reference.out_proj.state_dict())
    queries, context = torch.randn(2, 5, 32), torch.randn(2, 9, 32)
    seen = torch.rand(2, 9) < 0.7
    expected, _ = reference(queries, context, context, key_padding_mask=~seen)
    torch.testing.assert_close(ours(queries, context, seen[:, None, None]), expected)


@torch.no_grad()
def test_nanos_projector_is_two_layers_written_by_hand(repository: Path) -> None:
    folder = repository / "models" / "nano"
    config = load_config(folder)
    weights = {k: v.float() for k, v in load_file(str(folder / "model.safetensors")).items()}
    own = {k: v for k, v in weights.items() if k.startswith("projector.")}
    projector = build_projector(config)
    projector.load_state_dict({k.removeprefix("projector."): v for k, v in own.items()})
    tokens = torch.randn(1, config.vision.tokens, config.vision.hidden_size)
    first, bias, last, last_bias = (
        own[f"projector.layers.{layer}.{part}"] for layer in (0, 2) for part in ("weight", "bias")
    )
    hidden = tokens @ first.T + bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(projector(tokens), hidden @ last.T + last_bias)
    assert config.image_tokens == 100


@torch.no_grad()
def test_the_tower_shows_its_layers(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    config = msgspec.structs.replace(tiny_config.vision, layers=3)
    tower, pixel_values = VisionTower(config, (0, 1, -1)).eval(), torch.randn(1, 3, 240, 240)
    tokens, fine, features = tower(pixel_values)
    before, first, last = (features - tower.place).chunk(3, -1)
    torch.testing.assert_close(
        before, tower.patchify(fine).flatten(2).transpose(1, 2) + tower.position
    )
    torch.testing.assert_close(first, tower.encoder.layers[0](before, None))
    whole = tower.encoder(inputs_embeds=before).last_hidden_state
    torch.testing.assert_close(last, whole)
    torch.testing.assert_close(tokens, tower.norm(whole))
    plain, _, read = VisionTower(config).eval()(pixel_values)
    torch.testing.assert_close(read - plain, 2.0 * sine_cosine(10, config.hidden_size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("kind: pixel_shuffle, factor: 3", r"factor 3 .* grid 10 x 10: take one of 2, 5, 10"),
        ("kind: qformer, heads: 5", "heads 5 does not divide vision.hidden_size 256"),
        ("kind: multi_scale", "feature_layers"),
        ("feature_layers: [1]", "multi_scale"),
        ("kind: multi_scale, feature_layers: [1, 5]", "has 5: with 4 encoder layers"),
        ("kind: perceiver, queries: 0", "queries is 0: at least 1"),
        ("kind: resampler", "'resampler'"),
        ("querys: 8", "did you mean 'queries'"),
    ],
)
def test_what_cannot_be_built_is_refused_by_the_recipe(
    tmp_path: Path, options: str, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"data: {{train: [nowhere]}}\nstages: []\nmodel: {{projector: {{{options}}}}}\n"
    )
    with pytest.raises(UsageError, match=message):
        load_recipe(path, [])


def test_sea_needs_tokens_with_places(tiny_config: ModelConfig) -> None:
    shuffle, qformer = (
        EdgeMM(msgspec.structs.replace(tiny_config, projector=KINDS[name][0]))
        for name in ("shuffle2", "qformer")
    )
    assert sea_grid(shuffle) == 5
    with pytest.raises(UsageError, match=r"sea needs a projector .* qformer"):
        sea_grid(qformer)
