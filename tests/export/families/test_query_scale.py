"""Scores that are multiplied by nothing: every family's logits, and weights that were fitted."""

from __future__ import annotations

import numpy as np
import pytest

from edge_mm_export.decoder import build_decoder
from edge_mm_export.quantise import quantise_blocks
from edge_mm_export.query_scale import fold_scale

from .conftest import Stepper
from .test_text import CONFIGS, expected_passes, parts_of, tiny


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_keep_their_size(name: str, step: Stepper) -> None:
    model = tiny(name)
    spec, weights = parts_of(model)
    graph = build_decoder(spec, weights, target="cpu", precision="fp32").graph
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert len(attention) == spec.layers
    assert {node.attributes["scale"].as_float() for node in attention} == {1.0}
    decoder = step(spec, weights, "cpu", "fp32")
    for new, logits in expected_passes(model):
        np.testing.assert_allclose(decoder.feed(new), logits, atol=2e-4)


def test_fitted_queries_are_scaled_and_nothing_else_is() -> None:
    spec, weights = parts_of(tiny("llama"))
    rows = np.ones((spec.qkv_size, spec.hidden_size))
    fitted = {name: quantise_blocks(rows, 4) for name in ("layers.0.qkv", "layers.0.o")}
    folded, scaled, found = fold_scale(spec, weights, fitted)
    assert folded.attention_scale == 1 and found is not None
    assert found["layers.0.o"] is fitted["layers.0.o"]
    sizes = spec.heads * spec.head_dim
    after = found["layers.0.qkv"].dequantise()
    np.testing.assert_allclose(after[:sizes], spec.head_dim**-0.5, rtol=1e-6)
    np.testing.assert_allclose(after[sizes:], 1, rtol=1e-6)
    assert set(scaled) == set(weights) and len(scaled) == len(weights)
    assert "lm_head.weight" in scaled and "other" not in scaled


def test_other_targets_keep_their_scale() -> None:
    spec, weights = parts_of(tiny("llama"))
    graph = build_decoder(spec, weights, target="cuda", precision="fp16").graph
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert all("scale" not in node.attributes for node in attention)
