"""Every text family against transformers' own class: prefill, append, sixteen single steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edge_mm_export.decoder import build_decoder
from edge_mm_export.errors import UnsupportedError
from edge_mm_export.families.text import FAMILIES, decoder_spec, load_text_decoder

from .conftest import TINY, Stepper, randomise

PROMPT = [1, 7, 20, 33, 81, 15, 64, 3, 90]
APPENDED = [44, 2, 95, 61]
STEPS = 16

GEMMA = {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
SCALED_GEMMA3 = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "smollm2": ("llama", {"tie_word_embeddings": True}),
    "smollm3": (
        "smollm3",
        {
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 6,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "mistral": ("mistral", {"sliding_window": 6}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "internvl3": ("qwen2", {"rope_parameters": DYNAMIC}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "phi3": (
        "phi3",
        {
            "sliding_window": 6,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "gemma": ("gemma", {"head_dim": 32, "num_key_value_heads": 1}),
    "gemma2": (
        "gemma2",
        {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (
        "gemma3_text",
        {
            **GEMMA,
            "rope_parameters": SCALED_GEMMA3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def tiny(name: str) -> Any:
    family, changes = CONFIGS[name]
    config = AutoConfig.for_model(family, **(TINY | changes))
    torch.manual_seed(1)
    return randomise(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))


Pass = tuple[list[int], np.ndarray]


@torch.no_grad()
def expected_passes(model: Any) -> list[Pass]:
    """(new ids, logits after them) of each pass, by transformers without a cache."""
    passes: list[Pass] = []
    ids, new = list[int](), PROMPT
    for step in range(STEPS + 2):
        ids = ids + new
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].numpy()
        passes.append((new, logits))
        new = APPENDED if step == 0 else [int(logits.argmax())]
    return passes


def parts_of(model: Any) -> tuple[Any, dict[str, np.ndarray]]:
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    return decoder_spec(model.config), weights


@pytest.mark.parametrize("name", CONFIGS)
def test_every_target_gives_the_tokens_of_transformers(
    name: str, step: Stepper, record_property: Any
) -> None:
    model = tiny(name)
    passes = expected_passes(model)
    spec, weights = parts_of(model)
    for target, precision, tolerance in (
        ("cpu", "fp32", 1e-4),
        ("tensorrt-10.3", "fp32", 1e-4),
        ("tensorrt", "fp16", 0.03),
    ):
        decoder = step(spec, weights, target, precision)
        largest = 0.0
        for new, logits in passes:
            found = decoder.feed(new)
            largest = max(largest, float(np.abs(found - logits).max()))
            assert found.argmax() == logits.argmax()
        record_property(f"{name} {target} {precision}", largest)
        assert largest < tolerance, (target, largest)


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2", "phi3", "smollm3", "gemma2", "gemma3"])
def test_other_precisions_stay_close(name: str, step: Stepper) -> None:
    model = tiny(name)
    logits = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()
    spec, weights = parts_of(model)
    for target, precision, lowest in (
        ("cpu", "int8", 0.99),
        ("cuda", "fp16", 0.9999),
        ("tensorrt-10.3", "fp16", 0.9999),
        ("tensorrt", "int8", 0.99),
    ):
        found = step(spec, weights, target, precision).feed(PROMPT)
        cosine = found @ logits / np.linalg.norm(found) / np.linalg.norm(logits)
        assert cosine > lowest, (target, precision, cosine)


def test_a_saved_folder_imports(tmp_path: Path, step: Stepper) -> None:
    tiny("qwen3").to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    spec, weights = load_text_decoder(tmp_path, context=32)
    assert spec.context == 32 and spec.tied_embeddings and "lm_head.weight" not in weights
    found = step(spec, weights, "cpu", "fp32").feed(PROMPT)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([PROMPT])).logits[0, -1].numpy()
    np.testing.assert_allclose(found, logits, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("gpt2", {}, "'gpt2' is not one that the graph builder knows"),
        ("llama", {"hidden_act": "relu"}, "llama: hidden_act='relu'"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "gemma3_text: attn_logit_softcapping"),
        ("gemma2", {"use_bidirectional_attention": True}, "gemma2: use_bidirectional"),
        (
            "qwen3",
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
            "qwen3: rope_type='yarn'",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(
    family: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        decoder_spec(AutoConfig.for_model(family, **changes))


@pytest.mark.parametrize("text", ["{", '{"model_type": "of tomorrow"}'])
def test_a_config_that_transformers_cannot_read_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        UnsupportedError, match=r"transformers cannot read .*config\.json"
    ) as caught:
        load_text_decoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_rotary_sizes_that_the_kernel_lacks_are_refused() -> None:
    config = AutoConfig.for_model("qwen3", **(TINY | {"head_dim": 24}))
    with pytest.raises(UnsupportedError, match=r"qwen3: a rotary size of 24 .* cpu and cuda"):
        build_decoder(decoder_spec(config), {}, target="cpu", precision="fp32")


def test_every_family_is_tested() -> None:
    tested = {family for family, _ in CONFIGS.values()}
    in_test_vlm = {"qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"}
    assert tested | in_test_vlm == FAMILIES.keys()
