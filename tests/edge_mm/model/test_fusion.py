"""Fusion: the language model starts unchanged, every part learns, and a picture is really read."""

from __future__ import annotations

import copy
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from edge_mm.data.questions import Question
from edge_mm.data.samples import Packer, attention_mask
from edge_mm.model.checkpoint import load_config, load_model, save_checkpoint
from edge_mm.model.config import FusionConfig, LanguageConfig, ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.fusion import GatedBlock
from edge_mm.model.runners import TorchDecoder
from edge_mm.train.lora import add_lora, merge_lora
from edge_mm.train.optimizers import freeze, parts
from edge_mm.train.recipe import Lora, Stage, load_recipe
from edge_mm_runtime.errors import UsageError

KINDS = {
    "cross_attention": FusionConfig("cross_attention", every=1),
    "late": FusionConfig("late", layers=2),
}
IDS = torch.tensor([[1, 5, 200, 201, 6, 44], [1, 5, 90, 91, 6, 7]])


@pytest.fixture(params=KINDS)
def fused(request: pytest.FixtureRequest, tiny_config: ModelConfig) -> EdgeMM:
    """A new model with two blocks, closed gates."""
    torch.manual_seed(2)
    return EdgeMM(msgspec.structs.replace(tiny_config, fusion=KINDS[request.param])).eval()


def opened(model: EdgeMM) -> EdgeMM:
    for number, block in enumerate(model.fusion.blocks):
        nn.init.constant_(block.attention_gate, 0.7 - number)
        nn.init.constant_(block.feed_forward_gate, 0.5 + number)
    return model


def pictures(seed: int, rows: int = 9) -> Tensor:
    return torch.randn(2, rows, 32, generator=torch.Generator().manual_seed(seed))


def states(model: EdgeMM, image_embeds: Tensor, ids: Tensor = IDS) -> tuple[Tensor, ...]:
    memory = model.image_memory(image_embeds)
    return model.hidden_states(model.embed(ids, memory), image_memory=memory)


@torch.no_grad()
def test_closed_gates_leave_the_language_model_as_it_is(fused: EdgeMM) -> None:
    plain = EdgeMM(msgspec.structs.replace(fused.config, fusion=FusionConfig()))
    plain.lm.load_state_dict(fused.lm.state_dict())  # a plain Llama's names, nothing more
    alone = plain.lm.eval()(IDS).logits
    assert torch.equal(fused.lm.lm_head(states(fused, pictures(0))[-1]), alone)
    seen = opened(fused).lm.lm_head(states(fused, pictures(0))[-1])
    assert (seen - alone).abs().max() > 1e-2


@torch.no_grad()
def test_a_block_is_attention_and_feed_forward_behind_gates() -> None:
    torch.manual_seed(0)
    block, memory = GatedBlock(32, 4, 48, 1e-5), nn.Linear(32, 64, bias=False)
    block.attention_gate.fill_(0.7)
    block.feed_forward_gate.fill_(-0.4)
    for norm in (block.attention_norm, block.feed_forward_norm):
        norm.weight.uniform_(0.5, 2)
    reference = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    reference.in_proj_weight.copy_(torch.cat([block.query.weight, memory.weight]))
    reference.out_proj.weight.copy_(block.output.weight)
    text, image = torch.randn(2, 5, 32), torch.randn(2, 9, 32)

    def norm(x: Tensor, gain: Tensor) -> Tensor:
        return gain * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()

    looked, _ = reference(norm(text, block.attention_norm.weight), image, image)
    expected = text + np.tanh(0.7) * looked
    inner = nn.functional.gelu(
        norm(expected, block.feed_forward_norm.weight) @ block.up.weight.T, approximate="none"
    )
    expected = expected + np.tanh(-0.4) * (inner @ block.down.weight.T)
    torch.testing.assert_close(block(text, memory(image)), expected)


@torch.no_grad()
def test_where_the_picture_enters(fused: EdgeMM) -> None:
    kind = fused.config.fusion.kind
    a, b = (states(opened(fused), pictures(seed)) for seed in (0, 1))
    differ = [not torch.equal(x, y) for x, y in zip(a, b, strict=True)]
    assert differ == [False, kind == "cross_attention", True]
    assert fused.config.image_tokens == 0


@pytest.mark.parametrize(
    ("fusion", "places"),
    [
        (FusionConfig(), ()),
        (FusionConfig("cross_attention"), (1, 3, 5)),
        (FusionConfig("cross_attention", every=4), (3,)),
        (FusionConfig("late", layers=1), (6,)),
    ],
)
def test_places(fusion: FusionConfig, places: tuple[int, ...]) -> None:
    assert fusion.places(6) == places


def test_gates_learn_first_then_everything(fused: EdgeMM) -> None:
    def learns() -> dict[str, bool]:
        fused.zero_grad(set_to_none=True)
        fused.lm.lm_head(states(fused, pictures(0))[-1]).square().sum().backward()
        return {
            name: parameter.grad is not None and bool(parameter.grad.abs().max() > 0)
            for name, parameter in fused.fusion.named_parameters()
        }

    assert {name for name, found in learns().items() if found} == {
        f"blocks.{n}.{gate}_gate" for n in (0, 1) for gate in ("attention", "feed_forward")
    }
    opened(fused)
    assert all(learns().values())


@torch.no_grad()
def test_packing_changes_nothing(fused: EdgeMM, tokenizer) -> None:
    packer = Packer(tokenizer, fused.config)
    questions = [
        Question("exist", "Is there a red cup?", "yes"),
        Question("locate", "find the blue bowl", "<none>"),
    ]
    together, alone = packer.pack(questions, 500), packer.pack(questions[1:], 500)
    assert together.ids[:2] == [packer.ids["<bos>"], packer.ids["<user>"]]

    def hidden(row) -> Tensor:
        memory = opened(fused).image_memory(pictures(0)[:1])
        return fused.hidden_states(
            fused.embed(torch.tensor([row.ids]), memory),
            attention_mask(torch.tensor([row.segments]), torch.float32),
            torch.tensor([row.positions]),
            memory,
        )[-1][0]

    ours = hidden(together)[torch.tensor(together.segments) == 2]
    theirs = hidden(alone)[torch.tensor(alone.segments) == 1]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_cached_steps_equal_a_fresh_pass(fused: EdgeMM) -> None:
    memory = opened(fused).image_memory(pictures(0)[:1])
    decoder = TorchDecoder(fused)

    def feed(ids: list[int], total: int) -> np.ndarray:
        return decoder.run(
            {
                "input_ids": np.array([ids], np.int64),
                "image_embeds": memory[0].numpy(),
                "seqlens_k": np.array([total - 1], np.int32),
                "total_sequence_length": np.array([total], np.int32),
            }
        )["logits"]

    feed([1, 5, 200], 3)
    feed([7, 8, 9], 6)
    found = feed([201, 6], 5)  # forgets 7 8 9
    fresh = fused.lm.lm_head(states(fused, pictures(0)[:1], IDS[:1, :5])[-1][:, -1])
    np.testing.assert_allclose(found, fresh.numpy(), atol=1e-5)


@torch.no_grad()
def test_states_keep_the_number_format_of_training(fused: EdgeMM) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        memory = opened(fused).image_memory(pictures(0))
        embeds = fused.embed(IDS, memory).bfloat16()
        found = fused.hidden_states(embeds, image_memory=memory)
        own = fused.hidden_states(embeds)
    assert [state.dtype for state in found] == [state.dtype for state in own]


@torch.no_grad()
def test_early_fusion_is_the_language_models_own_pass(tiny_model: EdgeMM) -> None:
    embeds = tiny_model.embed(IDS + torch.tensor([[0, 1279, 1080, 1079, 0, 0]]), pictures(0))
    mask = torch.zeros(2, 1, 6, 6).masked_fill(~torch.ones(6, 6).tril().bool(), -1e30)
    for found, own in zip(
        tiny_model.hidden_states(embeds, mask, image_memory=pictures(0)),
        tiny_model.lm.model(
            inputs_embeds=embeds, attention_mask=mask, output_hidden_states=True
        ).hidden_states,
        strict=True,
    ):
        assert torch.equal(found, own)


def test_the_shipped_checkpoint_has_early_fusion(repository: Path) -> None:
    folder = repository / "models" / "nano"
    config = load_config(folder)
    assert (config.fusion, config.image_tokens) == (FusionConfig(), 100)
    with torch.device("meta"), safe_open(str(folder / "model.safetensors"), "pt") as weights:
        expected = set(EdgeMM(config).state_dict()) - {"lm.lm_head.weight"}
        assert set(weights.keys()) - {"lm.lm_head.weight"} == expected


@torch.no_grad()
def test_a_checkpoint_comes_back(fused: EdgeMM, tokenizer, tmp_path: Path) -> None:
    weights = opened(fused).state_dict()
    save_checkpoint(tmp_path / "a", fused, weights, tokenizer, {}, torch.float32)
    loaded = load_model(tmp_path / "a")
    for ours, theirs in zip(states(fused, pictures(0)), states(loaded, pictures(0)), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_a_copy_has_blocks_of_its_own(fused: EdgeMM) -> None:
    before = states(opened(fused), pictures(0))[-1]
    copied = copy.deepcopy(fused)
    for parameter in fused.fusion.parameters():
        parameter.zero_()
    assert torch.equal(states(copied, pictures(0))[-1], before)


def test_lora_and_freezing_leave_the_blocks_alone(fused: EdgeMM) -> None:
    before = states(opened(fused), pictures(0))[-1].detach()
    stage = Stage("s", 1, ("fusion", "language"), {"language": 1}, lora=Lora(rank=2))
    add_lora(fused, stage.lora)
    freeze(fused, stage)
    learning = {name for name, p in fused.named_parameters() if p.requires_grad}
    assert {name for name in learning if ".lora_" not in name} - {
        "text_projection.weight",
        "log_temperature",
    } == {f"fusion.{name}" for name, _ in fused.fusion.named_parameters()}
    assert sum(".lora_" in name for name in learning) == 2 * 2 * 7  # A and B, layers, matrices
    assert torch.equal(states(fused, pictures(0))[-1], before)  # B starts at zero
    merge_lora(fused)
    assert set(fused.lm.state_dict()) == set(EdgeMM(fused.config).lm.state_dict())
    held = [id(p) for found in parts(fused).values() for p in found]
    assert len(held) == len(set(held)) == len(list(fused.parameters()))


@pytest.mark.parametrize("fused", ["cross_attention"], indirect=True)
@torch.no_grad()
def test_the_decoder_compiles(fused: EdgeMM) -> None:
    expected = states(opened(fused), pictures(0))
    fused.lm.model.compile(backend="eager", dynamic=True)
    for found, own in zip(states(fused, pictures(0)), expected, strict=True):
        torch.testing.assert_close(found, own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("kind: cross_attention, every: 0", "every is 0: at least 1"),
        ("kind: cross_attention, every: 7", "every 7 gives 6 layers no block: at most 6"),
        ("kind: late, heads: 3", "heads 3 does not divide language.hidden_size 256"),
        ("kind: middle", "'middle'"),
        ("evry: 2", "did you mean 'every'"),
    ],
)
def test_what_cannot_be_built_is_refused_by_the_recipe(
    tmp_path: Path, options: str, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"data: {{train: [nowhere]}}\nstages: []\nmodel: {{fusion: {{{options}}}}}\n")
    with pytest.raises(UsageError, match=message):
        load_recipe(path, [])


def test_early_asks_nothing_of_the_language_model() -> None:
    FusionConfig(heads=3).check(LanguageConfig(hidden_size=32, num_hidden_layers=1))
