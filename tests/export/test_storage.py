"""Weights in files of their own, and none in memory while a graph is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edge_mm_export.storage as storage
from edge_mm_export.decoder import build_decoder
from edge_mm_export.storage import graph_bytes, graph_files, save_graph, spooled

from .conftest import SteppedDecoder, TinyDecoder

IDS = [1, 5, 17, 40, 8]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_graphs_in_two_files_say_the_same(
    precision: str, tiny: TinyDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_decoder(
        tiny.spec, tiny.weights(), precision=precision, spool=tmp_path / "constants"
    )
    large = [
        value for value in model.graph.initializers.values() if value.const_value.nbytes > 2048
    ]
    assert len(large) > 10
    assert all(isinstance(value.const_value, ir.ExternalTensor) for value in large)

    monkeypatch.setattr(storage, "LARGEST_FILE", 10_000)
    two, one = tmp_path / "two.onnx", tmp_path / "one.onnx"
    save_graph(model, two)
    monkeypatch.undo()
    save_graph(model, one)
    (tmp_path / "constants").unlink()
    assert [path.name for path in graph_files(two)] == ["two.onnx", "two.onnx.data"]
    assert graph_files(one) == (one,)
    assert two.stat().st_size < one.stat().st_size / 4
    pages = 4096 * len(large)  # each begins at one
    assert abs(graph_bytes(two) - graph_bytes(one)) < 0.1 * graph_bytes(one) + pages
    onnx.checker.check_model(str(two))
    found = [
        SteppedDecoder(path, tiny.spec, tiny.image_embeds.numpy()).feed(IDS)[0]
        for path in (one, two)
    ]
    np.testing.assert_array_equal(*found)


def test_a_graph_of_two_files_is_copied_whole(
    tiny: TinyDecoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "LARGEST_FILE", 10_000)
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first, second = tmp_path / "first" / "a.onnx", tmp_path / "second" / "b.onnx"
    save_graph(build_decoder(tiny.spec, tiny.weights(), precision="fp32"), first)
    save_graph(ir.load(first), second)
    for path in graph_files(first):
        path.unlink()
    onnx.checker.check_model(str(second))
    assert graph_files(second)[1].stat().st_size > 100_000


def test_spooled_constants_are_those_of_before(tiny: TinyDecoder, tmp_path: Path) -> None:
    model = build_decoder(tiny.spec, tiny.weights(), precision="fp32")
    before = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
    model = spooled(model, tmp_path / "constants")
    graph = model.graph
    large = [name for name, values in before.items() if values.nbytes > 2048]
    assert len(large) > 10
    assert not any(isinstance(graph.initializers[name].const_value, ir.Tensor) for name in large)
    for name, values in before.items():
        np.testing.assert_array_equal(graph.initializers[name].const_value.numpy(), values)
    save_graph(model, tmp_path / "one.onnx")
    (tmp_path / "constants").unlink()
    onnx.checker.check_model(str(tmp_path / "one.onnx"))


@pytest.mark.parametrize(
    ("target", "precision"), [("cpu", "fp32"), ("tensorrt", "fp16"), ("tensorrt-10.3", "fp16")]
)
def test_a_tied_table_is_stored_once(target: str, precision: str) -> None:
    tied, untied = TinyDecoder(tied=True), TinyDecoder(tied=False)
    sizes = [
        sum(
            value.const_value.nbytes
            for value in build_decoder(
                one.spec, one.weights(), target=target, precision=precision
            ).graph.initializers.values()
        )
        for one in (tied, untied)
    ]
    table = tied.config.vocab_size * tied.config.hidden_size
    assert sizes[1] - sizes[0] == table * (4 if precision == "fp32" else 2)
