"""Text decoders: a transformers config becomes a `DecoderSpec`, or is refused by name.

Each family is one function that gives the fields in which it differs from Llama; what all have in
common (geometry, RoPE, activation, biases) is read once. Source: transformers' `modeling_*.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from edge_mm_export.decoder_spec import Activation, DecoderSpec, LinearRope, Llama3Rope
from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.weights import Weights, open_weights

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def load_text_decoder(folder: Path, *, context: int | None = None) -> tuple[DecoderSpec, Weights]:
    """The spec and weights of a text decoder's folder, for `build_decoder`.

    `context` defaults to the model's positions, which is often more cache than a device has.
    """
    return decoder_spec(read_config(folder), context=context), open_weights(folder)


def read_config(folder: Path) -> Any:
    """The transformers config of a folder; no code that the folder holds is run."""
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder} has no config.json: is it a transformers folder?")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UnsupportedError(
            f"transformers cannot read {folder / 'config.json'}: {reason}"
        ) from None


def decoder_spec(config: Any, *, context: int | None = None) -> DecoderSpec:
    """Read the config of a text decoder, or of the text half of a VLM.

    Raises `UnsupportedError` naming the family, or the setting that the graph builder would get
    wrong.
    """
    family = config.model_type
    if family not in FAMILIES:
        raise UnsupportedError(
            f"decoder family {family!r} is not one that the graph builder knows "
            f"({', '.join(FAMILIES)})"
        )
    capacity = context or config.max_position_embeddings
    if capacity > config.max_position_embeddings:
        raise UnsupportedError(
            f"context {capacity} is beyond the model's {config.max_position_embeddings} positions"
        )
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim % 8:
        raise UnsupportedError(f"{family}: head_dim {head_dim} is no multiple of 8")
    common: dict[str, Any] = {
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "head_dim": head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "tied_embeddings": bool(getattr(config, "tie_word_embeddings", False)),
        "context": capacity,
        "family": family,
        "activation": _activation(config),
        "qkv_bias": bool(getattr(config, "attention_bias", False)),
        "output_bias": bool(getattr(config, "attention_bias", False)),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
    }
    return DecoderSpec(**(common | FAMILIES[family](config)))


def _llama(config: Any) -> dict[str, Any]:
    return _rope(config, config.rope_parameters)


def _mistral(config: Any) -> dict[str, Any]:
    return _llama(config) | _windows(config, range(config.num_hidden_layers))


def _qwen2(config: Any) -> dict[str, Any]:
    return _llama(config) | {"qkv_bias": True, "output_bias": False} | _sliding(config)


def _qwen2_vl(config: Any) -> dict[str, Any]:
    sections = config.rope_parameters.get("mrope_section", (16, 24, 24))
    axes = [axis for axis, size in enumerate(sections) for _ in range(size)]
    return _qwen2(config) | {"rope_axes": tuple(axes)}


def _qwen3(config: Any) -> dict[str, Any]:
    return _llama(config) | {"qk_norm": True} | _sliding(config)


def _qwen3_vl(config: Any) -> dict[str, Any]:
    sections = config.rope_parameters.get("mrope_section", (24, 20, 20))
    axes = [0] * sum(sections)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = [axis] * sections[axis]
    return _llama(config) | {"qk_norm": True, "rope_axes": tuple(axes)}


def _smollm3(config: Any) -> dict[str, Any]:
    without = [i for i in range(config.num_hidden_layers) if not config.no_rope_layers[i]]
    return _llama(config) | {"nope_layers": tuple(without)} | _sliding(config)


def _phi3(config: Any) -> dict[str, Any]:
    return _mistral(config) | {"fused_projections": True}


def _gemma(config: Any) -> dict[str, Any]:
    if getattr(config, "use_bidirectional_attention", None):
        raise _unsupported(config, "use_bidirectional_attention", True)
    return {
        "norm_offset": 1.0,
        "embedding_scale": float(config.hidden_size**0.5),
        **_rope(config, _nested(config, "full_attention")),
    }


def _gemma2(config: Any) -> dict[str, Any]:
    return {
        **_gemma(config),
        **_sliding(config),
        "post_norms": True,
        "attention_scale": float(config.query_pre_attn_scalar) ** -0.5,
        "attention_softcap": config.attn_logit_softcapping,
        "logit_softcap": config.final_logit_softcapping,
    }


def _gemma3(config: Any) -> dict[str, Any]:
    if config.attn_logit_softcapping is not None:  # transformers' own class does not apply it
        raise _unsupported(config, "attn_logit_softcapping", config.attn_logit_softcapping)
    local = _rope(config, _nested(config, "sliding_attention"))
    if "rope_scaling" in local:
        raise _unsupported(config, "rope_parameters of sliding_attention", "scaled")
    return _gemma2(config) | {"qk_norm": True, "local_rope_theta": local["rope_theta"]}


FAMILIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "llama": _llama,  # SmolLM, SmolLM2 and TinyLlama are this as well
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen2_vl_text": _qwen2_vl,
    "qwen2_5_vl_text": _qwen2_vl,
    "qwen3": _qwen3,
    "qwen3_vl_text": _qwen3_vl,
    "smollm3": _smollm3,
    "phi3": _phi3,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
}
"""By transformers' `model_type`: config -> the fields in which the family is not Llama."""


def _activation(config: Any) -> Activation:
    name = getattr(config, "hidden_activation", None) or config.hidden_act
    if name not in _ACTIVATIONS:
        raise _unsupported(config, "hidden_act", name)
    return _ACTIVATIONS[name]


def _nested(config: Any, layers: str) -> dict[str, Any]:
    """The RoPE settings of a kind of layer, where a config has them by kind."""
    found: dict[str, Any] = config.rope_parameters.get(layers, config.rope_parameters)
    return found


def _rope(config: Any, rope: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {"rope_theta": float(rope["rope_theta"])}
    match rope.get("rope_type", "default"):
        case "default" | "dynamic":  # dynamic NTK differs beyond max_position_embeddings only
            pass
        case "linear":
            fields["rope_scaling"] = LinearRope(float(rope["factor"]))
        case "llama3":
            fields["rope_scaling"] = Llama3Rope(
                float(rope["factor"]),
                float(rope["low_freq_factor"]),
                float(rope["high_freq_factor"]),
                int(rope["original_max_position_embeddings"]),
            )
        case other:
            raise _unsupported(config, "rope_type", other)
    part = float(rope.get("partial_rotary_factor") or 1.0)
    if part != 1:
        head_dim = getattr(config, "head_dim", None)
        head_dim = head_dim or config.hidden_size // config.num_attention_heads
        fields["rotary_dim"] = int(head_dim * part)
    return fields


def _windows(config: Any, layers: range | list[int]) -> dict[str, Any]:
    if config.sliding_window is None or not layers:
        return {}
    return {"sliding_window": config.sliding_window, "sliding_layers": tuple(layers)}


def _sliding(config: Any) -> dict[str, Any]:
    kinds = config.layer_types
    unknown = set(kinds) - {"sliding_attention", "full_attention"}
    if unknown:
        raise _unsupported(config, "layer_types", sorted(unknown)[0])
    return _windows(config, [i for i, kind in enumerate(kinds) if kind == "sliding_attention"])


def _unsupported(config: Any, setting: str, value: object) -> UnsupportedError:
    return UnsupportedError(f"{config.model_type}: {setting}={value!r} is not supported")
