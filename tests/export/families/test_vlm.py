"""Vision-language families against transformers: a picture, a prompt, sixteen single steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.families.vlm import FAMILIES, ImportedVLM, load_vlm
from edge_mm_export.vision import trace_vision
from edge_mm_runtime.rope import rope_positions
from edge_mm_runtime.runner import OnnxRunner

from .conftest import TINY, Stepper, randomise

IMAGE = 90  # the image token of every tiny config
STEPS = 16
TEXT = {key: value for key, value in TINY.items() if key != "initializer_range"}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
INTERNVL_VISION = {**VISION, "image_size": [32, 32], "patch_size": [8, 8]}


def text(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **TEXT, **changes}


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llava-1.5": (
        "llava",
        {
            "vision_config": {"model_type": "clip_vision_model", **VISION, "projection_dim": 32},
            "text_config": text("llama"),
            "image_token_index": IMAGE,
        },
    ),
    "llava-siglip": (
        "llava",
        {
            "vision_config": {"model_type": "siglip_vision_model", **VISION},
            "text_config": text("qwen2", tie_word_embeddings=True),
            "image_token_index": IMAGE,
            "vision_feature_select_strategy": "full",
            "vision_feature_layer": -1,
        },
    ),
    "idefics3": (
        "idefics3",
        {
            "vision_config": {"model_type": "idefics3_vision", **VISION},
            "text_config": text("llama"),
            "image_token_id": IMAGE,
            "scale_factor": 2,
        },
    ),
    "smolvlm": (
        "smolvlm",
        {
            "vision_config": {"model_type": "smolvlm_vision", **VISION},
            "text_config": text("llama", tie_word_embeddings=True),
            "image_token_id": IMAGE,
            "scale_factor": 2,
            "tie_word_embeddings": True,
        },
    ),
    "internvl": (
        "internvl",
        {
            "vision_config": {"model_type": "internvl_vision", **INTERNVL_VISION},
            "text_config": text("qwen2"),
            "image_token_id": IMAGE,
            "downsample_ratio": 0.5,
            "image_seq_length": 4,
        },
    ),
}

QWEN_VISION: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 8}
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": 91, "vision_start_token_id": 92}
MULTI_AXIS = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
CONFIGS |= {
    "qwen2-vl": (
        "qwen2_vl",
        {
            "vision_config": {**QWEN_VISION, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
            "text_config": text("qwen2_vl_text", rope_parameters=MULTI_AXIS),
            **QWEN_IDS,
        },
    ),
    "qwen2.5-vl": (
        "qwen2_5_vl",
        {
            "vision_config": {
                **QWEN_VISION,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 64,
                "window_size": 32,
                "fullatt_block_indexes": [1],
            },
            "text_config": text("qwen2_5_vl_text", rope_parameters=MULTI_AXIS),
            **QWEN_IDS,
        },
    ),
    "qwen3-vl": (
        "qwen3_vl",
        {
            "vision_config": {
                **QWEN_VISION,
                "depth": 3,
                "hidden_size": 32,
                "intermediate_size": 48,
                "out_hidden_size": 64,
                "num_position_embeddings": 25,
                "deepstack_visual_indexes": [0, 1],
            },
            "text_config": text(
                "qwen3_vl_text",
                head_dim=16,
                rope_parameters={**MULTI_AXIS, "mrope_section": [4, 2, 2]},
            ),
            "tie_word_embeddings": True,
            **QWEN_IDS,
        },
    ),
}

GEMMA: dict[str, Any] = {"head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 24}
SIGLIP = {"model_type": "siglip_vision_model", **VISION, "vision_use_head": False}
CONFIGS |= {
    "gemma3": (
        "gemma3",
        {
            "vision_config": SIGLIP,
            "text_config": text(
                "gemma3_text",
                **GEMMA,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            ),
            "image_token_index": IMAGE,
            "mm_tokens_per_image": 4,
        },
    ),
    "paligemma": (
        "paligemma",
        {
            "vision_config": SIGLIP,
            "text_config": text("gemma", head_dim=16, num_key_value_heads=1),
            "image_token_index": IMAGE,
            "projection_dim": 64,
            "hidden_size": 64,
        },
    ),
    "paligemma2": (
        "paligemma",
        {
            "vision_config": SIGLIP,
            "text_config": text("gemma2", **GEMMA, attn_logit_softcapping=2.0),
            "image_token_index": IMAGE,
            "projection_dim": 64,
            "hidden_size": 64,
        },
    ),
}


def tiny(name: str) -> Any:
    family, changes = CONFIGS[name]
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **changes))
    return randomise(model)


def five_dimensions(model: Any, pixels: torch.Tensor) -> dict[str, Any]:
    return {"pixel_values": pixels[:, None]}


def patches(model: Any, pixels: torch.Tensor) -> dict[str, Any]:
    flat, rows, columns = Qwen2VLImageProcessorPil().patchify(pixels[0].numpy(), 8, 2, 2)
    grid = torch.tensor([[1, rows, columns]])
    return {"pixel_values": torch.from_numpy(flat), "image_grid_thw": grid}


INPUTS: dict[str, Callable[[Any, torch.Tensor], dict[str, Any]]] = {
    "qwen2_vl": patches,
    "qwen2_5_vl": patches,
    "qwen3_vl": patches,
    "idefics3": five_dimensions,
    "smolvlm": five_dimensions,
}
"""What a family's own class takes for pixels [1, 3, H, W], where it is not them."""


def traced_embeds(imported: ImportedVLM, pixels: np.ndarray, path: Path) -> np.ndarray:
    """The rows [T, D] that the traced tower gives on ONNX Runtime."""
    graph = trace_vision(
        imported.vision, width=imported.width, height=imported.height, box_head=False
    )
    ir.save(graph, path)
    with OnnxRunner(path, 1) as runner:
        return runner.run({"pixel_values": pixels})["image_embeds"][0]


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_a_picture_is_answered_as_by_transformers(
    name: str, tmp_path: Path, step: Stepper, record_property: Any
) -> None:
    tiny(name).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", dtype=torch.float32)
    oblong = {"width": 64, "height": 48} if "qwen" in name else {}
    imported = load_vlm(tmp_path / "model", **oblong)
    pixels = torch.randn(1, 3, imported.height, imported.width)
    embeds = traced_embeds(imported, pixels.numpy(), tmp_path / "vision.onnx")

    vocab = imported.spec.vocab_size
    given = INPUTS.get(model.config.model_type, lambda model, pixels: {"pixel_values": pixels})
    inputs = given(model, pixels)
    prompt = [1, 7, *([IMAGE] * len(embeds)), 20, 33]
    new = [1, 7, *range(vocab, vocab + len(embeds)), 20, 33]
    decoders = {
        target: (step(imported.spec, imported.weights, target, precision, embeds), tolerance)
        for target, precision, tolerance in (
            ("cpu", "fp32", 1e-4),
            ("tensorrt-10.3", "fp32", 1e-4),
            ("tensorrt", "fp16", 0.03),
        )
    }
    largest = dict.fromkeys(decoders, 0.0)
    ids, built = list(prompt), list[int]()
    for _ in range(STEPS + 1):
        built += new
        more: dict[str, np.ndarray] = {}
        if imported.grid is not None:
            inputs["mm_token_type_ids"] = (torch.tensor([ids]) == IMAGE).int()
            more["rope_positions"] = rope_positions(built, vocab, *imported.grid)[:, -len(new) :]
        if model.config.model_type == "gemma3":
            inputs["token_type_ids"] = (torch.tensor([ids]) == IMAGE).int()
        if model.config.model_type == "paligemma":
            inputs["token_type_ids"] = (torch.arange(len(ids)) >= len(prompt)).int()[None]
        logits = model(input_ids=torch.tensor([ids]), use_cache=False, **inputs).logits[0, -1]
        for target, (decoder, tolerance) in decoders.items():
            found = decoder.feed(new, **more)
            difference = float(np.abs(found - logits.numpy()).max())
            largest[target] = max(largest[target], difference)
            assert difference < tolerance, (target, difference)
            assert found.argmax() == logits.argmax()
        new = [int(logits[:IMAGE].argmax())]  # an image token would ask for a picture
        ids += new
    for target, difference in largest.items():
        record_property(f"{name} {target}", difference)

    without = model(input_ids=torch.tensor([[1, 7, 20, 33]]), use_cache=False).logits[0, -1]
    assert float((without - logits).abs().max()) > 0.01  # the picture is seen at all


def test_every_family_is_tested() -> None:
    assert {family for family, _ in CONFIGS.values()} == FAMILIES.keys()


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no config\.json"):
        load_vlm(tmp_path)
    AutoConfig.for_model("git").save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match=r"family 'git' reads pictures otherwise"):
        load_vlm(tmp_path)
    AutoConfig.for_model("llava", **CONFIGS["llava-1.5"][1]).save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedError, match=r"llava: .* made for 32 x 32 pixels, not for 64 x 32"
    ):
        load_vlm(tmp_path, width=64)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ExportError, match=r"pytorch_model\.bin, a pickle"):
        load_vlm(tmp_path)
