"""Every projector and fusion for TensorRT: the fp16 graph says what torch says, and is built.

ONNX Runtime and TensorRT-RTX are given the same file. Four heads, since below that TensorRT-RTX
1.7.1 has no kernel for one token.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from edge_mm.model.config import FusionConfig, ProjectorConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm.model.session import describe
from edge_mm_export.checkpoint import draw_decoder
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.vision import stored_vision, trace_vision
from edge_mm_runtime.decoder import Decoder, open_decoder
from edge_mm_runtime.engines.library import choose_library
from edge_mm_runtime.engines.plan import Options, build_plan
from edge_mm_runtime.engines.profiles import Sizes, decoder_sizes, vision_sizes
from edge_mm_runtime.runner import OnnxRunner

from .conftest import SIDE
from .test_projectors import SmallEye

PRECISION = PRECISIONS["tensorrt"]["fp16"]
ADA = 89
TOLERANCE = 0.01  # of the largest value; fp16 has 11 bits, and some ten layers add up

PROJECTORS = {
    "linear": ProjectorConfig("linear"),
    "mlp": ProjectorConfig("mlp", layers=3),
    "pixel_shuffle-2": ProjectorConfig("pixel_shuffle"),
    "pixel_shuffle-4": ProjectorConfig("pixel_shuffle", factor=4),
    "qformer": ProjectorConfig("qformer", queries=3, heads=2),
    "perceiver": ProjectorConfig("perceiver", queries=3, heads=2),
    "multi_scale": ProjectorConfig("multi_scale", feature_layers=(1, -1)),
}
FUSIONS = {
    "early": FusionConfig(),
    "cross_attention": FusionConfig("cross_attention", every=1, heads=2),
    "late": FusionConfig("late", layers=2),
}


Build = Callable[[Path, str, dict[str, Sizes]], Any]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(graph, what, sizes)`: its plan by TensorRT-RTX."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("builds real engines: pip install 'edge-mm[rtx]'")

    def make(graph: Path, what: str, sizes: dict[str, Sizes]) -> Any:
        library, _ = choose_library(None, ADA)
        cache = tmp_path / "timing.cache"
        options = Options(library, "tensorrt", ADA, 1 << 28, cache, lambda line: None)
        return build_plan(graph, what, sizes, options)[0]

    return make


@pytest.fixture
def model_with(edge_mm: EdgeMM, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EdgeMM]:
    """`model_with(projector=..., fusion=...)`: tiny, random, its gates open; quick to trace."""
    monkeypatch.setattr("edge_mm.model.vision.EfficientNetLite0", SmallEye)

    def make(**parts: Any) -> EdgeMM:
        config = edge_mm.config
        vision = msgspec.structs.replace(config.vision, token_grid=4, layers=2)
        language = msgspec.structs.replace(
            config.language, num_attention_heads=4, num_key_value_heads=2, head_dim=16
        )
        torch.manual_seed(5)
        model = EdgeMM(msgspec.structs.replace(config, vision=vision, language=language, **parts))
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                nn.init.constant_(parameter, 0.8)
        return model.eval()

    return make


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("name", PROJECTORS)
def test_projectors(
    model_with: Callable[..., EdgeMM], build: Build, tmp_path: Path, name: str
) -> None:
    model = model_with(projector=PROJECTORS[name])
    traced = trace_vision(
        model.vision_graph(), width=SIDE, height=SIDE, box_head=True, target="tensorrt"
    )
    path = tmp_path / "vision.onnx"
    ir.save(stored_vision(traced, PRECISION), path)
    pixels = np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    expected = TorchVision(model).run({"pixel_values": pixels})
    with OnnxRunner(path, 1) as runner:
        found = runner.run({"pixel_values": pixels})
    assert found.keys() == expected.keys()
    assert found["image_embeds"].shape == (1, model.config.image_tokens, 64)
    for output, value in expected.items():
        assert_close(found[output], value)
    assert build(path, "vision", vision_sizes()).nbytes > 0


@pytest.mark.parametrize("name", FUSIONS)
def test_fusions(
    model_with: Callable[..., EdgeMM], build: Build, checkpoint: Path, tmp_path: Path, name: str
) -> None:
    model = model_with(fusion=FUSIONS[name])
    path = tmp_path / "decoder.onnx"
    ir.save(draw_decoder(model, target="tensorrt", precision="fp16"), path)
    manifest = describe(model, checkpoint)
    geometry, images = manifest.decoder, manifest.prompt.image_token_count
    pixels = np.random.default_rng(1).normal(size=(1, 3, SIDE, SIDE)).astype(np.float32)
    embeds = TorchVision(model).run({"pixel_values": pixels})["image_embeds"][0]
    found = Decoder(open_decoder(path, geometry, 1, "tensorrt"), geometry, "tensorrt")
    expected = Decoder(TorchDecoder(model), geometry)
    for decoder in (found, expected):
        decoder.set_image(embeds)
    rows = range(geometry.vocab_size, geometry.vocab_size + images)
    ours, torchs = (decoder.prefill([1, *rows, 5, 200, 17]) for decoder in (found, expected))
    for new in ([7, 300, 12], *([token] for token in range(40, 48))):
        for a, b in zip(ours, torchs, strict=True):
            assert_close(a, b)
        assert ours.logits.argmax() == torchs.logits.argmax()
        ours, torchs = found.extend(new), expected.extend(new)
    sizes = decoder_sizes(geometry.context, max(images, 16), 32)
    assert build(path, "decoder", sizes).nbytes > 0
