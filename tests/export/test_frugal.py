"""Graphs that are asked without copies of their weights say what they said before."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

import edge_mm_export.frugal as module
import edge_mm_export.storage as storage
from edge_mm_export.cast import emulated
from edge_mm_export.decoder import build_decoder
from edge_mm_export.frugal import frugal
from edge_mm_export.storage import graph_bytes, save_graph

from .conftest import SteppedDecoder, TinyDecoder

IDS = [1, 5, 17, 40, 96, 97, 8]
FLOAT, BFLOAT16 = ir.DataType.FLOAT, ir.DataType.BFLOAT16


@pytest.fixture(autouse=True)
def _tiny_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 1024)
    monkeypatch.setattr(storage, "LARGEST_FILE", 1024)


@pytest.fixture
def rounded(tiny: TinyDecoder) -> TinyDecoder:
    """The tiny model with weights as a bf16 checkpoint has them."""
    found = TinyDecoder(tied=tiny.spec.tied_embeddings)
    with torch.no_grad():
        for parameter in found.lm.parameters():
            parameter.copy_(parameter.bfloat16().float())
    return found


def test_a_bf16_checkpoint_is_asked_in_fp32_by_half_the_bytes(
    rounded: TinyDecoder, tmp_path: Path
) -> None:
    model = build_decoder(
        rounded.spec, rounded.weights(), precision="fp32", spool=tmp_path / "constants"
    )
    save_graph(model, tmp_path / "exact.onnx")
    asked = frugal(ir.load(tmp_path / "exact.onnx"))
    save_graph(asked, tmp_path / "asked.onnx")
    assert graph_bytes(tmp_path / "asked.onnx") < 0.65 * graph_bytes(tmp_path / "exact.onnx")

    runner = SteppedDecoder(tmp_path / "asked.onnx", rounded.spec, rounded.image_embeds.numpy())
    expected, query = rounded.last(IDS)
    logits, found = runner.feed(IDS)
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    np.testing.assert_allclose(found, query, atol=2e-5)


def test_only_the_rows_that_are_looked_up_are_widened(rounded: TinyDecoder) -> None:
    graph = frugal(build_decoder(rounded.spec, rounded.weights(), precision="fp32")).graph
    tables = [
        node.inputs[0]
        for node in graph
        if node.op_type == "Gather" and node.inputs[0].is_initializer()
    ]
    shape = [rounded.config.vocab_size, rounded.config.hidden_size]
    assert [(table.dtype, list(table.shape)) for table in tables] == [(BFLOAT16, shape)]


def test_weights_that_bf16_would_round_stay_as_they_are(tiny: TinyDecoder) -> None:
    model = build_decoder(tiny.spec, tiny.weights(), precision="fp32")
    assert frugal(model) is model


@pytest.mark.parametrize(("target", "precision"), [("cuda", "fp16"), ("tensorrt", "bf16")])
def test_an_emulated_graph_says_the_same_to_the_bit(
    target: str, precision: str, tiny: TinyDecoder, tmp_path: Path
) -> None:
    model = emulated(build_decoder(tiny.spec, tiny.weights(), target=target, precision=precision))
    answers = []
    for name, graph in (("as-is", model), ("frugal", frugal(model))):
        path = tmp_path / f"{name}.onnx"
        save_graph(graph, path)
        runner = SteppedDecoder(path, tiny.spec, tiny.image_embeds.numpy(), target)
        answers.append(runner.feed(IDS)[0])
    assert len(frugal(model).graph.inputs) > len(model.graph.inputs)
    np.testing.assert_array_equal(*answers)


def test_onnx_runtime_holds_no_second_copy(tmp_path: Path) -> None:
    size, layers = 1024, 12
    rng = np.random.default_rng(0)
    x = ir.val("x", FLOAT, ir.Shape([1, size]))
    nodes, weights, value = [], [], x
    for layer in range(layers):
        drawn = rng.standard_normal((size, size), np.float32) / 32
        tensor = ir.tensor(drawn.astype(ml_dtypes.bfloat16).astype(np.float32), name=f"w{layer}")
        weight = ir.val(f"w{layer}", FLOAT, ir.Shape([size, size]), const_value=tensor)
        nodes.append(ir.node("MatMul", [value, weight]))
        weights.append(weight)
        value = nodes[-1].outputs[0]
    value.name, value.type, value.shape = "y", ir.TensorType(FLOAT), x.shape
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=weights, opset_imports={"": 23}, name="products"
    )
    path = tmp_path / "asked.onnx"
    save_graph(frugal(ir.Model(graph, ir_version=10)), path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    given = rng.standard_normal((1, size), np.float32)

    before = _anonymous_mb()
    session = onnxruntime.InferenceSession(str(path), options)
    (answer,) = session.run(None, {"x": given})
    grown = _anonymous_mb() - before

    expected = given.astype(np.float64)
    for weight in weights:
        expected = expected @ weight.const_value.numpy()
    np.testing.assert_allclose(answer, expected, atol=1e-4 * np.abs(expected).max())
    assert grown < 4e-6 * layers * size**2 / 2  # half of the weights in fp32


def _anonymous_mb() -> float:
    """What this process holds that is no mapped file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kibibytes) * 1024 / 1e6
