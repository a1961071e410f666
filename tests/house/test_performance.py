"""docs/performance.md is what bench/roofline.py prints; its arithmetic against torch's and ours."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import onnx
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from bench.lib.boards import BOARDS, ORIN_NANO_SUPER, THOR, Published
from bench.lib.limits import (
    Board,
    Conv,
    Decoder,
    Encoder,
    Linear,
    Vision,
    cache_bytes,
    limit_s,
    memory_bytes,
    pass_bytes,
    pass_operations,
    weight_bytes,
)
from bench.lib.models import AWQ, FP16, FP32, INT4, INT8, QWEN, SMOLLM2, SMOLVLM, VIT_B_16, nano
from bench.roofline import LIMIT, NANO, Reach, fit, fit_decode, pass_s, tables, times, vision_s
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM, Frames

PAGE = (NANO.parents[2] / "docs" / "performance.md").read_text()
CONFIG = msgspec.json.decode(NANO.read_bytes(), type=ModelConfig)
TINY = Decoder(2, 8, 4, 2, 3, 16, 10)
ZEN4 = Board(
    name="development machine",
    family="Orin",
    memory_gb=25,
    bandwidth_gb_s=30,
    peak={"fp32": 0.235, "bf16": 0.468, "int8": 0.935},
    advertised="2 cores of Zen 4, measured",
)
BOARD = Board(
    name="", family="Orin", memory_gb=1, bandwidth_gb_s=2, peak={"fp16": 5}, advertised=""
)


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def operations(module: nn.Module, **inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**inputs)
    return counter.get_total_flops()


def test_the_page_holds_what_the_program_prints() -> None:
    found = re.findall(r"(?:^\|.*\n)+", PAGE, re.M)
    *printed, bench = (block.strip() for block in found)
    assert printed == tables()
    assert bench.startswith("| `edge-mm bench` |")


def test_the_page_says_first_what_was_never_measured() -> None:
    first = PAGE.split("\n\n")[1]
    assert "Nothing on this page was measured on a Jetson" in first


def test_a_decoder_by_hand() -> None:
    layer = 8 * 3 * (4 + 2 * 2 + 4) + 3 * 8 * 16  # queries, keys and values, output; the MLP
    assert TINY.linear_weights == 2 * layer
    assert weight_bytes(TINY, INT8) == pytest.approx(1.0625 * (2 * layer + 80))
    assert weight_bytes(TINY, AWQ) == 0.515625 * 2 * layer + 2 * 80
    assert cache_bytes(TINY, FP16, 5) == 2 * 2 * 2 * 3 * 2 * 5
    assert pass_bytes(TINY, FP16, 5) == 2 * (2 * layer + 80) + 240
    seen = 6 + 7 + 8  # three tokens behind five: each sees those before it and itself
    attention = 2 * 2 * (4 * 3) * seen * 2  # scores and values, two operations each, two layers
    assert pass_operations(TINY, 3, 5) == 2 * 3 * 2 * layer + attention + 2 * 80


def test_vision_by_hand() -> None:
    encoder = Encoder(2, 8, 16, 5, matrices=3)
    vision = Vision(encoder, (Conv(4, 6, 8, 3, groups=2),), (Linear(5, 8, 7),))
    assert encoder.weights == 2 * (4 * 64 + 3 * 128)
    assert vision.weights == encoder.weights + 3 * 8 * 9 + 56
    attention = 2 * 2 * 5 * 5 * 8 * 2
    assert encoder.operations == 2 * 5 * encoder.weights + attention
    assert vision.operations == encoder.operations + 2 * 16 * 216 + 2 * 5 * 56
    assert vision.products == 4 * 2 + 1 + 1
    runs = memory_bytes(vision, TINY, FP16, 5, runtime=1000)
    assert runs == 1000 + 2 * vision.weights + pass_bytes(TINY, FP16, 5)


def test_a_limit_is_the_longer_time() -> None:
    assert limit_s(4e9, 5e12, BOARD, "fp16") == 2.0
    assert limit_s(4e9, 15e12, BOARD, "fp16") == 3.0


def test_shares_and_products_lengthen_it() -> None:
    reach = Reach(0.5, {"Orin": 0.25}, {"Orin": 0.2}, 0.1, 1e-3)
    read, busy = pass_bytes(TINY, FP16, 0) / 2e9, pass_operations(TINY, 4000) / 5e12
    assert pass_s(TINY, FP16, BOARD, reach, 1, 0) == pytest.approx(read / 0.5 + 9e-3)
    assert pass_s(TINY, FP16, BOARD, reach, 4000, 0) == pytest.approx(busy / 0.25 + 9e-3)
    wide = Vision(Encoder(1, 8, 16, 10_000))
    least = wide.operations / 5e12
    assert vision_s(wide, BOARD, reach) == pytest.approx(least / 0.2 + 4e-3)
    convolutions = msgspec.structs.replace(wide, kind="convolutions")
    assert vision_s(convolutions, BOARD, reach) == pytest.approx(least / 0.1 + 4e-3)


def test_the_fit_finds_what_made_the_rows() -> None:
    share, product_s = 0.8, 5e-5
    rows = []
    for board in (ORIN_NANO_SUPER, THOR):
        for decoder in (SMOLLM2, SMOLVLM.decoder, QWEN.decoder):
            read_s = weight_bytes(decoder, AWQ) / (board.bandwidth_gb_s * 1e9)
            token_s = read_s / share + (4 * decoder.layers + 1) * product_s
            rows.append(Published(board=board, model="", decoder=decoder, tokens_per_s=1 / token_s))
    assert fit_decode(rows) == pytest.approx((share, product_s))


def test_nothing_is_expected_beyond_the_limit() -> None:
    reach = fit()
    for model in (nano(CONFIG), SMOLVLM, QWEN):
        for board in BOARDS:
            pairs = zip(times(model, board, LIMIT), times(model, board, reach), strict=True)
            assert all(least < likely for least, likely in pairs)


def test_smolvlm_is_what_transformers_builds() -> None:
    """And has the 507,482,304 parameters of HuggingFaceTB/SmolVLM-500M-Instruct."""
    text = LlamaConfig(
        vocab_size=49280, hidden_size=960, intermediate_size=2560, num_hidden_layers=32,
        num_attention_heads=15, num_key_value_heads=5, tie_word_embeddings=False,
    )  # fmt: skip
    seen = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    config = Idefics3Config(
        text_config=text, scale_factor=4, tie_word_embeddings=False, pad_token_id=0,
        vision_config={**seen, "num_hidden_layers": 12, "image_size": 512, "patch_size": 16},
    )  # fmt: skip
    with torch.device("meta"):
        built = Idefics3ForConditionalGeneration(config)
    assert size(built) == 507_482_304
    assert SMOLVLM.weights == pytest.approx(size(built), rel=3e-3)  # norms, biases, positions
    layers = built.model.text_model.layers
    norms = 2 * 960 * 32
    assert SMOLVLM.decoder.linear_weights == size(layers) - norms


def test_qwen_is_what_transformers_builds() -> None:
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420,
                       "num_heads": 16, "out_hidden_size": 2048},
        tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        built = Qwen2_5_VLForConditionalGeneration(config)
        built.tie_weights()
    assert QWEN.weights == pytest.approx(size(built), rel=1e-3)
    assert QWEN.vision.weights == pytest.approx(size(built.model.visual), rel=1e-3)


def test_operations_of_a_vision_transformer_are_torchs() -> None:
    config = SiglipVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        image_size=512, patch_size=16, attn_implementation="eager", vision_use_head=False,
    )  # fmt: skip
    with torch.device("meta"):
        tower = SiglipVisionModel(config)
        found = operations(tower, pixel_values=torch.empty(1, 3, 512, 512))
    shuffled = 2 * 64 * 12288 * 960
    assert SMOLVLM.vision.operations - shuffled == found


def test_operations_of_a_decoder_are_torchs() -> None:
    decoder = Decoder(2, 960, 15, 5, 64, 2560, 49280)
    config = LlamaConfig(
        hidden_size=960, intermediate_size=2560, num_hidden_layers=2, num_attention_heads=15,
        num_key_value_heads=5, vocab_size=49280, attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        found = operations(LlamaModel(config), input_ids=torch.zeros(1, 104, dtype=torch.long))
    unseen = 4 * 2 * 960 * (104 * 104 - 104 * 105 // 2)  # eager attention sees the future, too
    rope = found - (pass_operations(decoder, 104) - 2 * 49280 * 960 + unseen)
    assert 0 <= rope < 1e-4 * found


def test_nano_is_what_torch_runs_and_what_is_shipped() -> None:
    model = nano(CONFIG)
    with torch.device("meta"):
        built = EdgeMM(CONFIG)
        pixels = torch.empty(1, 3, CONFIG.vision.image_size, CONFIG.vision.image_size)
        found = operations(Frames(built).eval(), pixel_values=pixels)
    assert model.vision.operations == pytest.approx(found, rel=1e-3)
    bundle = Path(__file__).resolve().parents[2] / "runtime/edge_mm_runtime/bundles/nano"
    graph = onnx.load(bundle / "decoder.cpu.onnx").graph
    sizes = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in graph.node
        if node.op_type == "MatMulNBits"
    ]
    shipped = sum(size["N"] * size["K"] for size in sizes)
    assert model.decoder.linear_weights + model.decoder.head_weights == shipped


def test_the_machine_here_as_worked_out_before() -> None:
    """Limits that were worked out by hand when the peers were measured."""
    assert 1 / pass_s(SMOLLM2, FP32, ZEN4, LIMIT, 1, 300) == pytest.approx(54, abs=1)
    int8 = msgspec.structs.replace(INT8, math="int8")
    assert 1 / pass_s(SMOLLM2, int8, ZEN4, LIMIT, 1, 300) == pytest.approx(200, abs=2)
    assert pass_s(SMOLLM2, FP32, ZEN4, LIMIT, 256, 0) == pytest.approx(0.242, abs=2e-3)
    for math, expected in (("fp32", 0.149), ("bf16", 0.075), ("int8", 0.037)):
        assert limit_s(0, VIT_B_16.operations, ZEN4, math) == pytest.approx(expected, abs=1e-3)


def test_qwen_on_an_orin_by_hand() -> None:
    """2.775e9 weights in the layers, 0.311e9 in the head, 0.5625 bytes each, and 296 tokens."""
    read = 0.5625 * (36 * (2048 * 2560 + 2048 * 2048 + 3 * 2048 * 11008) + 151936 * 2048)
    read += 296 * 36 * 2 * 2 * 128 * 2
    assert QWEN.precision is INT4
    assert times(QWEN, ORIN_NANO_SUPER, LIMIT).token == pytest.approx(read / 102e9)
