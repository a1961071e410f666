"""Several pictures and texts in one sequence, in any order."""

from __future__ import annotations

import msgspec
import pytest
import torch

from edge_mm.data.interleave import interleave
from edge_mm.model.config import FusionConfig, ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt

BEFORE, AFTER = "<bos>", "<user>which cup is red, the first or the second?<assistant>"


@pytest.fixture()
def images(tiny_config: ModelConfig) -> torch.Tensor:
    """Rows of two pictures, [2,T,D]."""
    shape = (2, tiny_config.image_tokens, tiny_config.language.hidden_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(4))


def test_one_picture_is_the_runtimes_prompt(tokenizer, tiny_config: ModelConfig) -> None:
    prompt = Prompt(NANO_TEMPLATE, "<image>", tiny_config.image_tokens).render("find the red cup")
    asked = tokenizer.encode(prompt, add_special_tokens=False).ids
    rows = iter(range(1280, 1380))
    image = tokenizer.token_to_id("<image>")
    expected = [next(rows) if token == image else token for token in asked]
    ours = ["<bos>", 0, "<user>find the red cup<assistant>"]
    assert interleave(ours, tokenizer, tiny_config) == expected


@torch.no_grad()
def test_every_part_lies_where_it_is_written(
    tokenizer, tiny_config: ModelConfig, tiny_model: EdgeMM, images: torch.Tensor
) -> None:
    table = tiny_model.lm.get_input_embeddings().weight

    def text(words: str) -> torch.Tensor:
        return table[tokenizer.encode(words).ids]

    ids = interleave([BEFORE, 1, " and ", 0, AFTER, 1], tokenizer, tiny_config)
    found = tiny_model.embed(torch.tensor([ids]), images.flatten(0, 1)[None])[0]
    expected = [text(BEFORE), images[1], text(" and "), images[0], text(AFTER), images[1]]
    assert torch.equal(found, torch.cat(expected))


@torch.no_grad()
def test_the_answer_sees_both_pictures_and_their_order(
    tokenizer, tiny_config: ModelConfig, tiny_model: EdgeMM, images: torch.Tensor
) -> None:
    def logits(parts: list[str | int], pictures: torch.Tensor) -> torch.Tensor:
        ids = torch.tensor([interleave(parts, tokenizer, tiny_config)])
        embeds = tiny_model.embed(ids, pictures.flatten(0, 1)[None])
        return tiny_model.lm.lm_head(tiny_model.hidden_states(embeds)[-1][0, -1])

    forward, backward = [BEFORE, 0, "then", 1, AFTER], [BEFORE, 1, "then", 0, AFTER]
    answer = logits(forward, images)
    for changed in (0, 1):
        other = images.clone()
        other[changed] += 1
        assert (logits(forward, other) - answer).abs().max() > 1e-4
    assert (logits(backward, images) - answer).abs().max() > 1e-6
    # A picture is its rows and its place: numbered the other way round it is the same sequence.
    assert torch.equal(logits(backward, images.flip(0)), answer)


def test_late_fusion_has_no_pictures_in_its_sequence(tokenizer, tiny_config: ModelConfig) -> None:
    config = msgspec.structs.replace(tiny_config, fusion=FusionConfig("late"))
    with pytest.raises(UsageError, match="fusion late has no pictures"):
        interleave([BEFORE, 0], tokenizer, config)
