"""Exported graphs through `edge-mm build`: TensorRT-RTX makes engines of them, without a GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest

from edge_mm.model.edge_mm import EdgeMM
from edge_mm_export.bundle import write_bundle
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.engines.build import build_engines

ADA = 89

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="builds real engines: pip install 'edge-mm[rtx]'",
)


@pytest.fixture(scope="module")
def four_heads(edge_mm: EdgeMM) -> EdgeMM:
    """The tiny model with four heads: below that TensorRT-RTX 1.7.1 has no kernel for one token."""
    heads = msgspec.structs.replace(
        edge_mm.config.language, num_attention_heads=4, num_key_value_heads=2, head_dim=16
    )
    return EdgeMM(msgspec.structs.replace(edge_mm.config, language=heads)).eval()


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4"])
def test_engines_are_built(
    checkpoint: Path, four_heads: EdgeMM, traced: ir.Model, tmp_path: Path, precision: str
) -> None:
    bundle = tmp_path / "bundle"
    write_bundle(bundle, checkpoint, four_heads, traced, target="tensorrt", precision=precision)
    built = build_engines(load_bundle(bundle), compute_capability=ADA)
    assert set(built.manifest.plans) == {"vision", "decoder"}
    assert built.manifest.precision == precision
