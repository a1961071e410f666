"""Whole folders of tiny models in the format of transformers: weights, tokenizer, processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from .conftest import randomise
from .test_vlm import CONFIGS, VISION, text

SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<|im_start|>",
    "<|im_end|>",
    "<|image_pad|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
)
VOCABULARY = 320
CONTEXT = 512
IMAGE_TOKEN = {
    "qwen2_vl": "<|image_pad|>",
    "qwen2_5_vl": "<|image_pad|>",
    "qwen3_vl": "<|image_pad|>",
    "internvl": "<IMG_CONTEXT>",
    "gemma3": "<image_soft_token>",
}

CLIP_TOWER = {"model_type": "clip_vision_model", **VISION, "projection_dim": 32}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "vipllava": (
        "vipllava",
        {
            "vision_config": CLIP_TOWER,
            "text_config": text("llama"),
            "image_token_index": 0,
            "vision_feature_layers": [-2, 1],
        },
    ),
    "llava-gpt-neox": (
        "llava",
        {
            "vision_config": CLIP_TOWER,
            "text_config": text("gpt_neox", rotary_pct=0.5, num_key_value_heads=None),
            "image_token_index": 0,
        },
    ),
}
"""A family, and a decoder, that the importer does not know."""

_PARTS = (
    "{% for part in message.content %}{% if part.type == 'image' %}PICTURE"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}"
)
_QWEN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    + _PARTS.replace("PICTURE", "<|vision_start|><|image_pad|><|vision_end|>")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOL = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
    + _PARTS.replace("PICTURE", "<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message.role }}\n"
    + _PARTS.replace("PICTURE", "<start_of_image>")
    + "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_INTERN = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    + _PARTS.replace("PICTURE", "<IMG_CONTEXT>\n")
    + "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "idefics3": _SMOL,
    "smolvlm": _SMOL,
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "gemma3": _GEMMA,
    "internvl": _INTERN,
    "vipllava": "USER: <image>\n{{ messages[0].content[1].text }} ASSISTANT:",
}
"""As the published models have them, what they say of tools and further turns left out; LLaVA and
PaliGemma have none."""

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "resample": 2}
CLIP = {
    "do_resize": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
SIDE = {"height": 32, "width": 32}
PREPROCESSORS: dict[str, dict[str, Any]] = {
    "llava": {
        **CLIP,
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "do_center_crop": True,
        "crop_size": SIDE,
    },
    "internvl": {**CLIP, "image_processor_type": "GotOcr2ImageProcessor", "size": SIDE},
    "idefics3": {
        **HALF,
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 128},
        "max_image_size": {"longest_edge": 32},
    },
    "gemma3": {**HALF, "image_processor_type": "Gemma3ImageProcessor", "size": SIDE},
    "paligemma": {**HALF, "image_processor_type": "SiglipImageProcessor", "size": SIDE},
    "qwen2_vl": {
        **CLIP,
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 256,
        "max_pixels": 65536,
    },
}
PREPROCESSORS["vipllava"] = PREPROCESSORS["llava"]
PREPROCESSORS["smolvlm"] = PREPROCESSORS["idefics3"]
PREPROCESSORS["qwen2_5_vl"] = PREPROCESSORS["qwen3_vl"] = PREPROCESSORS["qwen2_vl"]


def words() -> Tokenizer:
    """Every special token and single bytes; a prompt gets `<s>` in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["find the red cup, and the cup on the table"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_words(folder: Path, family: str) -> None:
    """Tokenizer, chat template and preprocessor of a family."""
    named = {
        "gemma3": {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        "internvl": {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
        },
    }
    PreTrainedTokenizerFast(
        tokenizer_object=words(),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=named.get(family, {"image_token": IMAGE_TOKEN.get(family, "<image>")}),
    ).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSORS[family]))
    if family in TEMPLATES:
        (folder / "chat_template.jinja").write_text(TEMPLATES[family])


def tiny_model(name: str) -> Any:
    """A tiny model of one of `CONFIGS` with random weights and the vocabulary of `words`."""
    family, changes = (CONFIGS | OTHERS)[name]
    index = SPECIAL.index(IMAGE_TOKEN.get(family, "<image>"))
    token = {key: index for key in ("image_token_id", "image_token_index") if key in changes}
    text = {**changes["text_config"], "vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT}
    config = AutoConfig.for_model(family, **{**changes, **token, "text_config": text})
    torch.manual_seed(1)
    return randomise(AutoModelForImageTextToText.from_config(config))


def write_folder(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A whole folder of one of `CONFIGS`; gives the model in fp32."""
    model = tiny_model(name)
    model.to(dtype).save_pretrained(folder)
    write_words(folder, (CONFIGS | OTHERS)[name][0])
    return model.float()
