"""What of the components that are not ours can be exported: see docs/components.md."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch

from edge_mm_export.checkpoint import decoder_spec
from edge_mm_export.errors import UnsupportedError
from edge_mm_export.vision import trace_vision
from tests.edge_mm.model.components import language_model, small, tower


@pytest.mark.parametrize("name", ["CLIP", "SigLIP 2", "DINOv3"])
def test_the_vision_graph_of_a_tower(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    graph = small(tower(name)).vision_graph()
    onnx_ir.save(trace_vision(graph, width=64, height=64, box_head=True), tmp_path / "v.onnx")
    pixels = torch.randn(1, 3, 64, 64)
    session = onnxruntime.InferenceSession(tmp_path / "v.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = graph(pixels)
    for found, wanted in zip(
        session.run(None, {"pixel_values": pixels.numpy()}), expected, strict=True
    ):
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def test_of_language_models_a_llama_only() -> None:
    spec = decoder_spec(small(language_model=language_model("Llama, tied")))
    assert (spec.layers, spec.heads, spec.kv_heads, spec.tied_embeddings) == (2, 2, 1, True)
    for name in ("Qwen2", "Qwen3", "Gemma 3"):
        with pytest.raises(UnsupportedError, match="decoder family"):
            decoder_spec(small(language_model=language_model(name)))
