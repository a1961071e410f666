"""Tiny random components of every family in docs/components.md."""

from __future__ import annotations

from typing import Any

from edge_mm.model.assemble import assemble
from edge_mm.model.components import LanguageModelConfig, TowerConfig
from edge_mm.model.config import LanguageConfig, ProjectorConfig, VisionConfig
from edge_mm.model.edge_mm import EdgeMM

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
PICTURE = {"image_size": 64, "patch_size": 16, "num_attention_heads": 2}
TOWERS: dict[str, dict[str, Any]] = {
    "CLIP": {"model_type": "clip_vision_model"},
    "SigLIP": {"model_type": "siglip_vision_model"},
    "SigLIP 2": {"model_type": "siglip2_vision_model", "num_patches": 16},
    "DINOv2": {"model_type": "dinov2"},
    "DINOv2 with registers": {"model_type": "dinov2_with_registers"},
    "DINOv3": {"model_type": "dinov3_vit", "num_register_tokens": 4},
}
BEFORE_PATCHES = {"CLIP": 1, "DINOv2": 1, "DINOv2 with registers": 5, "DINOv3": 5}
VIT = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
TIMM = {
    "EVA-02": {"architecture": "eva02_tiny_patch14_224", "model_args": VIT},
    "ViT": {"architecture": "vit_tiny_patch16_224", "model_args": VIT},
    "ResNet": {"architecture": "resnet18", "model_args": {}},
}
WORDS = 1280
TEXT = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": WORDS}
TEXT |= {"max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LANGUAGES: dict[str, dict[str, Any]] = {
    "Llama, SmolLM 1 and 2": {"model_type": "llama"},
    "Llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "SmolLM 3": {"model_type": "smollm3"},
    "Qwen2": {"model_type": "qwen2"},
    "Qwen3": {"model_type": "qwen3"},
    "Gemma": {"model_type": "gemma"},
    "Gemma 2": {"model_type": "gemma2"},
    "Gemma 3": {"model_type": "gemma3_text"},
}
OURS = LanguageConfig(WORDS, 32, 48, 2, 2, 1, 16)


def tower(name: str, **more: Any) -> TowerConfig:
    """A tower with random weights."""
    config = SIZES | PICTURE | TOWERS[name]
    if "num_patches" in config:
        del config["image_size"]
    return TowerConfig(config=config, **more)


def timm_tower(name: str, **more: Any) -> TowerConfig:
    config = {"model_type": "timm_wrapper", "do_pooling": False, **TIMM[name]}
    return TowerConfig(config=config, image_size=64, **more)


def language_model(name: str, **more: Any) -> LanguageModelConfig:
    """A language model with random weights."""
    return LanguageModelConfig(config=SIZES | TEXT | LANGUAGES[name] | more)


def small(
    tower: TowerConfig | None = None,
    language_model: LanguageModelConfig | None = None,
    projector: ProjectorConfig | None = None,
) -> EdgeMM:
    """A model of these, in eval mode."""
    model, _ = assemble(
        tower=tower,
        language_model=language_model,
        vision=VisionConfig(
            neck_channels=16, hidden_size=32, layers=1, heads=2, intermediate_size=32
        ),
        language=OURS,
        projector=projector or ProjectorConfig(),
    )
    return model.eval()
