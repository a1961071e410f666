"""Families of transformers for TensorRT: every kind of tower and of decoder is built by -RTX.

Random weights in two or three layers, but the heads, pictures and patches of published models:
which kernels TensorRT has depends on these. That the graphs say what transformers says is tested in
`families`; towers of one kind are built once (SmolVLM has Idefics3's, PaliGemma has SigLIP's), and
so are decoders of VLMs that are plain text decoders (LLaVA's Llama).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from edge_mm_export.decoder import build_decoder
from edge_mm_export.families.text import FAMILIES, decoder_spec
from edge_mm_export.families.vlm import load_vlm
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.vision import stored_vision, trace_vision
from edge_mm_runtime.engines.library import choose_library
from edge_mm_runtime.engines.plan import Options, build_plan
from edge_mm_runtime.engines.profiles import Sizes, decoder_sizes, vision_sizes

from .families import test_text, test_vlm
from .families.conftest import TINY, randomise

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="builds real engines: pip install 'edge-mm[rtx]'",
)

ADA = 89
CONTEXT = 1024
SIZES = decoder_sizes(CONTEXT, 100, 132)

TOWERS: dict[str, dict[str, Any]] = {  # four heads of the published size
    "llava-1.5": {"hidden_size": 256, "image_size": 336, "patch_size": 14},  # CLIP-L
    "llava-siglip": {"hidden_size": 288, "image_size": 384, "patch_size": 14},  # SigLIP So400m
    "idefics3": {"hidden_size": 288, "image_size": 364, "patch_size": 14},
    "internvl": {"hidden_size": 256, "image_size": [448, 448], "patch_size": [14, 14]},
    "gemma3": {"hidden_size": 288, "image_size": 896, "patch_size": 14},  # SigLIP, pooled
    "qwen2-vl": {"embed_dim": 320, "patch_size": 14},
    "qwen2.5-vl": {"hidden_size": 320, "patch_size": 14, "window_size": 112},
    "qwen3-vl": {"hidden_size": 288, "patch_size": 16, "num_position_embeddings": 2304},
}
SIDE = 448  # pixels, for towers that take every size

HEADS = {  # query heads, key/value heads and their size, of
    "llama": (32, 8, 128),  # Llama 3.1 8B
    "smollm2": (9, 3, 64),  # SmolLM2-135M
    "smollm3": (16, 4, 128),  # SmolLM3-3B
    "mistral": (32, 8, 128),  # Mistral 7B
    "qwen2": (14, 2, 64),  # Qwen2.5-0.5B
    "qwen3": (16, 8, 128),  # Qwen3-0.6B
    "phi3": (32, 32, 96),  # Phi-3-mini
    "gemma": (8, 1, 256),  # Gemma 2B
    "gemma2": (8, 4, 256),  # Gemma 2 2B
    "gemma3": (4, 1, 256),  # Gemma 3 1B
}
INT4 = ("llama", "phi3")  # with biases, and with fused projections
VLM_DECODERS = ("qwen2-vl", "qwen3-vl", "gemma3", "paligemma2")
"""Axes of RoPE, deepstack, attention both ways in a picture and in a prompt, soft caps."""


def build(graph: ir.Model, what: str, sizes: dict[str, Sizes], folder: Path) -> Any:
    """The plan of a graph, by TensorRT-RTX."""
    path = folder / f"{what}.onnx"
    ir.save(graph, path)
    library, _ = choose_library(None, ADA)
    options = Options(library, "tensorrt", ADA, 1 << 28, folder / "cache", lambda line: None)
    return build_plan(path, what, sizes, options)[0]


@pytest.mark.parametrize("name", TOWERS)
def test_towers(name: str, tmp_path: Path) -> None:
    family, changes = test_vlm.CONFIGS[name]
    heads = {"num_heads": 4} if "qwen" in name else {"num_attention_heads": 4}
    vision_config = {**changes["vision_config"], **heads, **TOWERS[name]}
    config = AutoConfig.for_model(family, **{**changes, "vision_config": vision_config})
    model = randomise(AutoModelForImageTextToText.from_config(config))
    model.save_pretrained(tmp_path / "model")
    size = {"width": SIDE, "height": SIDE} if "qwen" in name else {}
    imported = load_vlm(tmp_path / "model", **size)
    traced = trace_vision(
        imported.vision,
        width=imported.width,
        height=imported.height,
        box_head=False,
        target="tensorrt",
    )
    graph = stored_vision(traced, PRECISIONS["tensorrt"]["fp16"])
    assert build(graph, "vision", vision_sizes(), tmp_path).nbytes > 0


def published(name: str) -> tuple[Any, Any]:
    """Spec and weights of a text family with the heads of a published model."""
    family, changes = test_text.CONFIGS[name]
    heads, kv_heads, head_dim = HEADS[name]
    config = AutoConfig.for_model(
        family,
        **{
            **TINY,
            **changes,
            "hidden_size": 16 * heads,  # its own is larger: no kernel depends on it
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": CONTEXT,
        },
    )
    torch.manual_seed(1)
    model = randomise(AutoModelForCausalLM.from_config(config))
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    return decoder_spec(model.config), weights


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "fp16") for name in HEADS), *((name, "int4") for name in INT4)],
)
def test_text_decoders(name: str, precision: str, tmp_path: Path) -> None:
    spec, weights = published(name)
    assert (spec.heads, spec.kv_heads, spec.head_dim) == HEADS[name]
    graph = build_decoder(spec, weights, target="tensorrt", precision=precision)
    assert build(graph, "decoder", SIZES, tmp_path).nbytes > 0


@pytest.mark.parametrize("name", VLM_DECODERS)
def test_decoders_of_vision_language_models(name: str, tmp_path: Path) -> None:
    test_vlm.tiny(name).save_pretrained(tmp_path / "model")
    imported = load_vlm(tmp_path / "model")
    graph = build_decoder(imported.spec, imported.weights, target="tensorrt", precision="fp16")
    sizes = decoder_sizes(imported.spec.context, 4, 20)
    assert build(graph, "decoder", sizes, tmp_path).nbytes > 0


@pytest.mark.skipif(
    not os.environ.get("EDGE_MM_SMOLLM2"), reason="takes a minute and 3 GB: set EDGE_MM_SMOLLM2=1"
)
@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_a_decoder_of_the_size_of_smollm2_135m(precision: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    graph = build_decoder(decoder_spec(config), weights, target="tensorrt", precision=precision)
    assert build(graph, "decoder", SIZES, tmp_path).nbytes > 100e6


def test_every_family_is_built() -> None:
    text = {test_text.CONFIGS[name][0] for name in HEADS}
    assert text == {name for name in FAMILIES if "_vl_" not in name}
    assert TOWERS.keys() | {"smolvlm", "paligemma", "paligemma2"} == test_vlm.CONFIGS.keys()
