"""A 16-bit model that widens its weights part by part, against one in fp32."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_mm_export.families.reference import computes_in_fp32

from .conftest import TINY, randomise

IDS = torch.tensor([[1, 7, 20, 33, 81]])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gemma", "qwen3"])
def test_weights_are_wide_only_while_they_are_used(family: str) -> None:
    config = AutoConfig.for_model(family, **(TINY | {"tie_word_embeddings": True}))
    narrow = randomise(AutoModelForCausalLM.from_config(config)).to(torch.bfloat16)
    wide = copy.deepcopy(narrow).float()
    before = {name: value.clone() for name, value in narrow.named_parameters()}
    computes_in_fp32(narrow)
    for _ in range(2):
        found = narrow(IDS).logits
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wide(IDS).logits, rtol=0, atol=1e-6)
    after = dict(narrow.named_parameters())
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name])
    assert narrow.lm_head.weight is narrow.get_input_embeddings().weight
