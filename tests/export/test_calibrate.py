"""Activation ranges against what torch's own linears are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from edge_mm.model.checkpoint import load_model
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_export.bundle import write_graphs
from edge_mm_export.calibrate import activation_scales, measure_ranges, watched
from edge_mm_export.checkpoint import Checkpoint
from edge_mm_export.decoder import build_decoder
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.samples import read_samples

TORCH = {"qkv": "self_attn.q_proj", "o": "self_attn.o_proj", "gate_up": "mlp.up_proj"}


def test_every_linear_is_watched(tiny: Any) -> None:
    model = build_decoder(tiny.spec, tiny.weights(), precision="fp32")
    names = {str(value.name) for value in watched(model).graph.outputs}
    parts = ("qkv", "o", "gate_up", "down")
    wanted = {f"input of layers.{i}.{part}" for i in range(3) for part in parts}
    assert names > wanted | {"input of lm_head", "logits"}
    assert not any(str(value.name).startswith("input of") for value in model.graph.outputs)


def test_ranges_are_those_of_torch(
    checkpoint: Path, frames: Path, traced: ir.Model, tmp_path: Path
) -> None:
    model = load_model(checkpoint)
    samples = read_samples(frames)[:2]
    bundle = tmp_path / "bundle"
    write_graphs(bundle, Checkpoint(checkpoint, model), traced, target="cpu", precision="fp32")
    largest = measure_ranges(bundle, samples, tmp_path, percentile=None)
    usual = measure_ranges(bundle, samples, tmp_path, percentile=99.0)

    seen: dict[str, list[np.ndarray]] = {}

    def keep(name: str) -> Any:
        def hook(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            seen.setdefault(name, []).append(inputs[0].abs().numpy().ravel())

        return hook

    for part, module in TORCH.items():  # the last layer carries its last position only
        linear = model.lm.model.layers[0].get_submodule(module)
        linear.register_forward_pre_hook(keep(f"layers.0.{part}"))
    trace_all(ProbedSession(bundle, TorchVision(model), TorchDecoder(model)), samples)
    assert len(seen) == len(TORCH)
    for name, values in seen.items():
        together = np.concatenate(values)
        assert largest[name] == pytest.approx(together.max(), rel=1e-3)
        exact = np.percentile(together, 99.0)
        assert 0.99 * exact < usual[name] < 1.06 * exact


def test_a_scale_is_the_range_over_the_largest_value() -> None:
    known = PRECISIONS["tensorrt"]
    assert activation_scales({"a": 12.7, "never": 0.0}, known["w8a8"]) == {
        "a": pytest.approx(0.1),
        "never": 1.0,
    }
    assert activation_scales({"a": 44.8}, known["fp8"]) == {"a": pytest.approx(0.1)}
