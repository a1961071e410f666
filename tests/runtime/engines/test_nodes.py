"""The little ONNX reader agrees with onnx itself, and finds what TensorRT drops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.nodes import Node, check_nodes, read_nodes


def test_it_reads_what_onnx_reads(graphs: Any, tmp_path: Path, repository: Path) -> None:
    path = tmp_path / "decoder.onnx"
    onnx.save(graphs.decoder(), str(path))
    shipped = repository / "runtime/edge_mm_runtime/bundles/nano/decoder.cpu.onnx"
    for file in (path, shipped):
        nodes = onnx.load(str(file)).graph.node
        assert len(nodes) > 20
        expected = [Node(node.name, node.op_type, tuple(node.input)) for node in nodes]
        assert list(read_nodes(file)) == expected


def test_lengths_that_tensorrt_would_drop_are_refused(graphs: Any, tmp_path: Path) -> None:
    path = tmp_path / "decoder.onnx"
    onnx.save(graphs.decoder(), str(path))
    check_nodes(path)
    onnx.save(graphs.decoder(lengths="write_indices"), str(path))
    with pytest.raises(EngineError, match=r"decoder.onnx: node /heads .*nonpad_kv_seqlen.*mask"):
        check_nodes(path)


@pytest.mark.parametrize("data", [b"", b"\x3a\xff\x01short", b"\x3a\x80", b"\x0f\x0f\x0f"])
def test_no_model_is_an_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vision.onnx"
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"vision.onnx is no ONNX model"):
        list(read_nodes(path))
