"""The decoder graph against transformers: prefill with a picture, append, then single steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from transformers import LlamaConfig

from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import spec_from_llama
from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.hadamard import rotated
from edge_mm_export.precision import PRECISIONS

PROMPT = [1, 96, 97, 98, 99, 100, 7, 20, 33]  # ids 96..100 are the five rows of the picture
APPENDED = [44, 2, 95, 61]
WORDS = [1, 7, 20, 33]


def test_fp32_equals_transformers_through_prefill_append_and_decode(
    tiny: Any, stepped: Any
) -> None:
    decoder = stepped("fp32")
    ids = list(PROMPT)
    logits, query = decoder.feed(PROMPT)
    for step in range(18):
        expected_logits, expected_query = tiny.last(ids)
        np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
        np.testing.assert_allclose(query, expected_query, atol=1e-4)
        new = APPENDED if step == 0 else [int(expected_logits.argmax())]
        ids += new
        logits, query = decoder.feed(new)


def test_prefix_is_reusable_after_another_continuation(stepped: Any) -> None:
    decoder = stepped("fp32")
    decoder.feed(PROMPT)
    first, _ = decoder.feed(APPENDED)
    decoder.length = len(PROMPT)
    decoder.feed([5, 6, 7, 8, 9, 10, 11])
    decoder.length = len(PROMPT)
    again, _ = decoder.feed(APPENDED)
    np.testing.assert_array_equal(first, again)


def test_int8_stays_close_to_fp32(tiny: Any, stepped: Any) -> None:
    expected, _ = tiny.last(PROMPT + APPENDED)
    decoder = stepped("int8")
    decoder.feed(PROMPT)
    logits, _ = decoder.feed(APPENDED)
    cosine = logits @ expected / np.linalg.norm(logits) / np.linalg.norm(expected)
    assert cosine > 0.998
    assert not np.array_equal(logits, expected)


@pytest.mark.parametrize("precision", ["int8", "w8a8", "w8a8-tensor"])
def test_rows_of_a_rotated_table_are_int8(tiny: Any, tmp_path: Path, precision: str) -> None:
    model = build_decoder(tiny.spec, tiny.weights(), precision=precision)
    ((steps, _),) = model.graph.initializers["embed_tokens.scales"].uses()
    ((scaled, _),) = steps.outputs[0].uses()
    (row,) = scaled.outputs
    row.type, row.shape = ir.TensorType(ir.DataType.FLOAT), None
    inputs = [value for value in model.graph.inputs if value.name == "input_ids"]
    cut = ir.convenience.extract(model.graph, inputs, [row])
    ir.save(ir.Model(cut, ir_version=10), tmp_path / "rows.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "rows.onnx"))
    (found,) = session.run(None, {"input_ids": np.array([WORDS], np.int64)})

    _, weights, _ = rotated(tiny.spec, tiny.weights(), PRECISIONS["cpu"][precision])
    table = weights["model.embed_tokens.weight"].astype(np.float64)[WORDS]
    step = np.abs(table).max(1, keepdims=True) / 127
    np.testing.assert_allclose(found[0], np.rint(table / step) * step, rtol=1e-5, atol=1e-7)
    assert np.abs(found[0] - table).max() > 0.2 * step.min()


def test_no_region_query_without_a_box_head(tiny: Any) -> None:
    spec = spec_from_llama(tiny.config)
    outputs = [value.name for value in build_decoder(spec, tiny.weights()).graph.outputs]
    assert "region_query" not in outputs
    assert outputs[:2] == ["logits", "present.0.key"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear"),
        ({"head_dim": 20}, "head_dim 20"),
    ],
)
def test_unsupported_configs_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        spec_from_llama(LlamaConfig(**change))


def test_other_families_and_longer_contexts_are_refused() -> None:
    other = LlamaConfig()
    other.model_type = "gpt2"
    with pytest.raises(UnsupportedError, match="gpt2"):
        spec_from_llama(other)
    with pytest.raises(UnsupportedError, match="4096"):
        spec_from_llama(LlamaConfig(max_position_embeddings=2048), context=4096)


@pytest.mark.parametrize(
    ("target", "precision", "named"), [("npu", "int8", "npu"), ("cpu", "int3", "int3")]
)
def test_unknown_targets_and_precisions_are_refused(
    tiny: Any, target: str, precision: str, named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named):
        build_decoder(tiny.spec, tiny.weights(), target=target, precision=precision)


def test_missing_and_misshapen_weights_are_named(tiny: Any) -> None:
    weights = tiny.weights()
    name = "model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ExportError, match=name):
        build_decoder(tiny.spec, {k: v for k, v in weights.items() if k != name})
    with pytest.raises(ExportError, match=name):
        build_decoder(tiny.spec, weights | {name: weights[name][:-1]})
