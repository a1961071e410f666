"""A model as transformers' own LLaVA (arXiv 2310.03744), so that other tools can load it.

An mlp projector is LLaVA's, a linear one behind its norm that of VipLLaVA (arXiv 2312.00784). What
neither has a place for stays behind: the region head. Boxes are then spoken by location tokens, and
the text outside of edge_mm is not bound by the grammar.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.projectors.linear import LinearProjector
from edge_mm.model.projectors.mlp import MLPProjector
from edge_mm_runtime.errors import UsageError

# tokens before the patches, of which LLaVA drops one at most
TOWERS = {"clip_vision_model": 1, "dinov2": 1, "siglip_vision_model": 0}
RESAMPLE = {"area": 2, "linear": 2, "cubic": 3}  # PIL's: BILINEAR there is a mean over an area
# `messages` of transformers -> the prompt that the model was trained on, see runtime/prompt.py.
CHAT_TEMPLATE = """\
<bos>{%- for message in messages -%}{%- if message.role == 'user' -%}
{%- if message.content is string -%}<user>{{ message.content }}
{%- else -%}
{%- for part in message.content if part.type == 'image' -%}<image>{%- endfor -%}
<user>{%- for part in message.content if part.type == 'text' -%}{{ part.text }}{%- endfor -%}
{%- endif -%}<assistant>
{%- else -%}{{ message.content }}<eos>{%- endif -%}{%- endfor -%}"""


def save_llava(model: EdgeMM, tokenizer: Tokenizer, folder: Path) -> str:
    """Write what transformers' LLaVA and `LlavaProcessor` load; weights in fp32.

    Returns the name of the class that loads it: `LlavaForConditionalGeneration` for an mlp of one
    or two layers, `VipLlavaForConditionalGeneration` for a linear projector. UsageError with the
    reason for a model that is neither: ours is a vision tower that transformers does not have.
    """
    _check(model)
    config = llava_config(model, tokenizer)
    made = _CLASSES[type(config)](config)
    made.generation_config = GenerationConfig.from_model_config(config.text_config)
    made.model.vision_tower.load_state_dict(model.vision.encoder.state_dict())
    made.model.language_model.load_state_dict(model.decoder.state_dict())
    made.lm_head.load_state_dict(model.lm.get_output_embeddings().state_dict())
    projector = made.model.multi_modal_projector
    if isinstance(model.projector, LinearProjector):
        projector.projector_layernorm.load_state_dict(model.projector.norm.state_dict())
    for layer, values in zip(
        (projector.linear_1, projector.linear_2), _two_layers(model.projector), strict=True
    ):
        layer.load_state_dict(values)
    folder.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(folder)
    _save_processor(model, tokenizer, config, folder)
    return type(made).__name__


_CLASSES: dict[type, Any] = {
    LlavaConfig: LlavaForConditionalGeneration,
    VipLlavaConfig: VipLlavaForConditionalGeneration,
}


def llava_config(model: EdgeMM, tokenizer: Tokenizer) -> LlavaConfig | VipLlavaConfig:
    """The configuration of the LLaVA or VipLLaVA model that this model is."""
    vision, text = copy.deepcopy(model.vision.encoder.config), copy.deepcopy(model.lm.config)
    for name in ("bos", "eos", "pad"):
        setattr(text, f"{name}_token_id", tokenizer.token_to_id(f"<{name}>"))
    given: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": tokenizer.token_to_id("<image>"),
        "projector_hidden_act": "gelu" if model.config.projector.layers == 2 else "linear",
        "vision_feature_layer": model.vision.feature_layer,
        "image_seq_length": model.config.image_tokens,
        "tie_word_embeddings": text.tie_word_embeddings,
    }
    if isinstance(model.projector, LinearProjector):
        given["projector_hidden_act"] = "linear"
        return VipLlavaConfig(**given, projector_layernorm_eps=model.projector.norm.eps)
    strategy = "default" if TOWERS[vision.model_type] else "full"
    return LlavaConfig(**given, vision_feature_select_strategy=strategy)


def _check(model: EdgeMM) -> None:
    config = model.config
    tower = config.tower.config["model_type"] if config.tower else None
    projector = config.projector
    reason = None
    if tower is None:
        reason = (
            "its vision tower is our own, which transformers has no class for; take one of "
            f"{', '.join(TOWERS)} (docs/components.md)"
        )
    elif tower not in TOWERS:
        reason = f"its vision tower is of type {tower}, LLaVA takes {', '.join(TOWERS)}"
    elif config.vision.image_size != model.vision.encoder.config.image_size:
        reason = (
            f"its vision tower reads {config.vision.image_size} pixels instead of its own "
            f"{model.vision.encoder.config.image_size}"
        )
    elif projector.kind == "linear" and not TOWERS[tower]:
        reason = (
            "its projector is a linear one behind a norm, as VipLLaVA's, which drops the first "
            f"token of the vision tower: {tower} has none to drop; take an mlp projector"
        )
    elif projector.kind not in ("linear", "mlp") or projector.layers > 2:
        reason = (
            f"its projector is a {projector.kind} of {projector.layers} layers; LLaVA's is an mlp "
            "of 1 or 2, VipLLaVA's a linear one"
        )
    elif getattr(model.lm.config, "final_logit_softcapping", None) is not None:
        reason = f"LLaVA puts no soft cap on logits, as its {model.lm.config.model_type} does"
    elif config.fusion.kind != "early":
        reason = f"its fusion is {config.fusion.kind}, LLaVA's is early"
    if reason:
        raise UsageError(f"{config.name} cannot be saved as LLaVA: {reason}")


def _two_layers(
    projector: MLPProjector | LinearProjector,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """LLaVA always has two: behind a single one comes the identity."""
    layers = [projector.linear] if isinstance(projector, LinearProjector) else projector.layers
    first, *more = (layer for layer in layers if isinstance(layer, nn.Linear))
    size = first.out_features
    identity = {"weight": torch.eye(size), "bias": torch.zeros(size)}
    return first.state_dict(), more[0].state_dict() if more else identity


def _save_processor(
    model: EdgeMM, tokenizer: Tokenizer, config: LlavaConfig | VipLlavaConfig, folder: Path
) -> None:
    """The tokenizer, the chat template, and the image transform by transformers' names."""
    image, vision = model.config.image, config.vision_config
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    ).save_pretrained(folder)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": image.height, "width": image.width},
        "resample": RESAMPLE[image.interpolation],
        "do_center_crop": False,
        "crop_size": {"height": image.height, "width": image.width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": image.mean,
        "image_std": image.std,
    }
    processor = {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": vision.patch_size,
        "num_additional_image_tokens": TOWERS[vision.model_type],
        "vision_feature_select_strategy": "default" if TOWERS[vision.model_type] else "full",
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
