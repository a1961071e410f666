"""A causal language model of transformers in the place of ours: Llama, Qwen, Gemma, SmolLM, ...

They are used in two parts, for the region head reads the hidden states between them: the decoder,
and the head that makes logits. A model whose parts do not add up to the whole is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from edge_mm.model.components import LanguageModelConfig
from edge_mm.model.config import LanguageConfig
from edge_mm.model.hub import restored
from edge_mm_runtime.errors import UsageError


def random_language_model(asked: LanguageModelConfig) -> PreTrainedModel:
    """The language model by its configuration, with random weights."""
    config = restored(asked.config, "language_model")
    try:
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"language_model.config of type {config.model_type!r}: {error}") from error
    return lm


def decoder(lm: PreTrainedModel) -> nn.Module:
    """Embeddings [B,S,D] -> hidden states: a language model without its head."""
    found: nn.Module = lm.get_decoder()
    return found


def logits(lm: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Last hidden states [..,D] -> logits [..,V]."""
    scores: Tensor = lm.get_output_embeddings()(hidden)
    cap = getattr(lm.config, "final_logit_softcapping", None)
    return scores if cap is None else torch.tanh(scores / cap) * cap


@torch.no_grad()
def check_parts(lm: PreTrainedModel) -> None:
    """UsageError if `decoder` and `logits` are not all that this language model does."""
    ids = torch.arange(4)[None]
    try:
        embeds = lm.get_input_embeddings()(ids)
        hidden = decoder(lm)(inputs_embeds=embeds, use_cache=False).last_hidden_state
        ours, whole = logits(lm, hidden), lm(input_ids=ids, use_cache=False).logits
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{_cannot(lm)}: {error}") from error
    if not torch.allclose(ours, whole, atol=1e-3, rtol=1e-3):
        raise UsageError(f"{_cannot(lm)}: it does more to its logits than its head")


def language_config(config: PreTrainedConfig) -> LanguageConfig:
    """The sizes of a language model by our names."""
    heads = config.num_attention_heads
    given = LanguageConfig()
    return LanguageConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=getattr(config, "intermediate_size", given.intermediate_size),
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        max_position_embeddings=config.max_position_embeddings,
        rope_theta=_rope_theta(getattr(config, "rope_parameters", None) or {}),
        rms_norm_eps=getattr(config, "rms_norm_eps", given.rms_norm_eps),
    )


def _rope_theta(rope: dict[str, Any]) -> float:
    """Of layers of several types that of full attention."""
    rope = rope.get("full_attention", rope)
    return float(rope.get("rope_theta", LanguageConfig().rope_theta))


def _cannot(lm: PreTrainedModel) -> str:
    return f"a {type(lm).__name__} cannot be the language model"
