"""The vision graph against torch: fp32 exactly, fp16 storage closely."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from edge_mm.model.edge_mm import VISION_OUTPUTS, EdgeMM
from edge_mm_export.cast import emulated
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.vision import halved, in_fast_forms, stored_vision, trace_vision
from edge_mm_runtime.runner import OnnxRunner

from .conftest import kinds


@pytest.fixture(scope="module")
def pixel_values() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_fp32_equals_torch(
    traced: ir.Model, edge_mm: EdgeMM, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    found = run(traced, pixel_values, tmp_path)
    assert tuple(found) == VISION_OUTPUTS
    for expected, value in zip(edge_mm.vision_graph()(pixel_values), found.values(), strict=True):
        np.testing.assert_allclose(value, expected.numpy(), atol=1e-4, rtol=1e-4)


def test_fp16_storage_is_half_the_size_and_close(
    traced: ir.Model, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    exact = run(traced, pixel_values, tmp_path)
    size = (tmp_path / "vision.onnx").stat().st_size
    stored = run(halved(traced), pixel_values, tmp_path)
    assert (tmp_path / "vision.onnx").stat().st_size < 0.55 * size
    for name, value in exact.items():
        error = np.abs(stored[name] - value).max()
        assert 0 < error < 0.01 * np.abs(value).max()


@torch.no_grad()
def test_fp16_between_fp32_borders_is_close_to_torch(
    traced: ir.Model, edge_mm: EdgeMM, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    model = stored_vision(traced, PRECISIONS["tensorrt"]["fp16"])
    assert {value.dtype for value in model.graph.initializers.values()} <= {
        ir.DataType.FLOAT16,
        ir.DataType.FLOAT,
        ir.DataType.INT64,
    }
    for graph in (model, emulated(model)):
        found = run(graph, pixel_values, tmp_path)
        exact = edge_mm.vision_graph()(pixel_values)
        for expected, value in zip(exact, found.values(), strict=True):
            error = np.abs(value - expected.numpy()).max()
            assert value.dtype == np.float32
            assert 0 < error < 0.02 * np.abs(expected.numpy()).max()


def test_large_weights_stay_fp32() -> None:
    weight = np.full((64, 64), 1e5, np.float32)
    value = ir.val("w", const_value=ir.tensor(weight, name="w"))
    x = ir.val("x", ir.DataType.FLOAT, [1, 64])
    node = ir.node("MatMul", [x, value])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 23})
    assert [n.op_type for n in halved(ir.Model(graph, ir_version=10)).graph] == ["MatMul"]


@torch.no_grad()
def test_without_a_box_head_for_a_parser_that_knows_no_attention(
    edge_mm: EdgeMM, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    traced = trace_vision(
        edge_mm.vision_graph(), width=64, height=64, box_head=False, target="tensorrt-10.3"
    )
    assert dict(traced.opset_imports) == {"": 20}
    assert "Attention" not in {node.op_type for node in traced.graph}
    assert not any("regions" in name for name in traced.graph.initializers)
    expected = edge_mm.vision_graph()(pixel_values)[0].numpy()
    found = run(traced, pixel_values, tmp_path)
    assert list(found) == ["image_embeds"]
    np.testing.assert_allclose(found["image_embeds"], expected, atol=1e-4, rtol=1e-4)
    half = run(stored_vision(traced, PRECISIONS["tensorrt-10.3"]["fp16"]), pixel_values, tmp_path)
    assert 0 < np.abs(half["image_embeds"] - expected).max() < 0.02 * np.abs(expected).max()


class Layer(torch.nn.Module):
    """Attention over 4 x 4 patches with a norm after it; `turned` queries come otherwise."""

    def __init__(self, *, turned: bool, masked: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = torch.nn.Conv2d(3, 48, 16, 16)
        self.parts = torch.nn.ModuleList(torch.nn.Linear(48, 48) for _ in range(3))
        self.norm = torch.nn.LayerNorm(48)
        self.turned = turned
        mask = torch.rand(1, 1, 16, 16) < 0.7 if masked else None
        self.register_buffer("mask", mask)

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor]:
        x = self.patch(pixel_values).flatten(2).transpose(1, 2)
        query, key, value = (part(x).view(1, 16, 3, 16).transpose(1, 2) for part in self.parts)
        if self.turned:
            query = query.roll(1, dims=-1)
        seen = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, self.mask, scale=0.5
        )
        return (self.norm(x + seen.transpose(1, 2).reshape(1, 16, 48)),)


@torch.no_grad()
@pytest.mark.parametrize(("turned", "masked"), [(False, False), (False, True), (True, False)])
def test_fast_forms_leave_out_copies_and_compute_the_same(
    turned: bool, masked: bool, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    layer = Layer(turned=turned, masked=masked)
    traced = trace_vision(layer, width=64, height=64, box_head=False)
    assert kinds(traced)["Attention"] == 1 and kinds(traced)["Transpose"] == 5
    fast = in_fast_forms(traced)
    assert kinds(fast)["Transpose"] == (5 if turned else 1)
    assert kinds(fast)["Attention"] == 1 and kinds(traced)["Transpose"] == 5
    expected = layer(pixel_values)[0].numpy()
    found = run(fast, pixel_values, tmp_path)
    np.testing.assert_allclose(found["image_embeds"], expected, atol=1e-5, rtol=1e-5)


def test_a_sum_before_a_norm_is_not_joined_to_it(
    pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    traced = trace_vision(Layer(turned=False, masked=False), width=64, height=64, box_head=False)
    assert fused(traced, tmp_path)["SkipLayerNormalization"] == 1  # ONNX Runtime would
    assert fused(in_fast_forms(traced), tmp_path)["LayerNormalization"] == 1


@torch.no_grad()
def test_the_8_bit_tower_has_fast_forms(
    traced: ir.Model, edge_mm: EdgeMM, pixel_values: torch.Tensor, tmp_path: Path
) -> None:
    exact = kinds(traced)
    assert exact["Attention"] > 0
    known = PRECISIONS["cpu"]
    assert kinds(stored_vision(traced, known["int8"]))["Transpose"] == exact["Transpose"]
    stored = stored_vision(traced, known["w8a8"])
    assert kinds(stored)["Transpose"] == exact["Transpose"] - 4 * exact["Attention"]
    assert [value.name for value in stored.graph.outputs] == list(VISION_OUTPUTS)
    found = run(stored, pixel_values, tmp_path)
    for expected, value in zip(edge_mm.vision_graph()(pixel_values), found.values(), strict=True):
        error = np.abs(value - expected.numpy()).max()
        assert 0 < error < 0.05 * np.abs(expected.numpy()).max()


def fused(model: ir.Model, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a graph."""
    ir.save(model, folder / "vision.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "vision.onnx", options)
    return kinds(ir.load(folder / "fused.onnx"))


def run(model: ir.Model, pixel_values: torch.Tensor, folder: Path) -> dict[str, Any]:
    ir.save(model, folder / "vision.onnx")
    with OnnxRunner(folder / "vision.onnx", 1) as runner:
        return runner.run({"pixel_values": pixel_values.numpy()})
