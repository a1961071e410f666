"""Graphs on disk: one file, or a second one beside it that holds the weights.

A protobuf may have 2 GiB. What is larger goes into `<name>.data`, which ONNX Runtime maps into
memory and TensorRT finds when it is given the path of the graph (`parse_from_file`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

LARGEST_FILE = 1_500_000_000
"""Bytes of constants in one file; more of them lie in a second one."""

_KEPT = 1024  # bytes of a constant that is not worth a place in a file of its own
_ALIGNMENT = 64


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph to `path`, its weights to `<path>.data` where they are too many for one file.

    The model may have constants in other files, which must still be there.
    """
    constants = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in constants if tensor is not None) > LARGEST_FILE:
        ir.save(model, path, external_data=f"{path.name}.data")
        return
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)
    ir.save(model, path)


def graph_files(path: Path) -> tuple[Path, ...]:
    """The files that a graph at `path` lies in."""
    weights = path.with_name(f"{path.name}.data")
    return (path, weights) if weights.is_file() else (path,)


def graph_bytes(path: Path) -> int:
    """The size of a graph with its weights."""
    return sum(file.stat().st_size for file in graph_files(path))


class SpoolingBuilder(GraphBuilder):
    """A graph builder that keeps constants in a file, and in memory only the one it is given.

    The file must stay until the graph is saved.
    """

    def __init__(self, graph: ir.Graph, spool: Path) -> None:
        super().__init__(graph)
        self._spool = spool
        spool.write_bytes(b"")

    def initializer(
        self, tensor: ir.TensorProtocol, name: str | None = None, *, qualify: bool = True
    ) -> ir.Value:
        """Register a constant; see the class."""
        if tensor.nbytes > _KEPT:
            tensor = self._stored(tensor)
        value: ir.Value = super().initializer(tensor, name, qualify=qualify)
        return value

    def _stored(self, tensor: ir.TensorProtocol) -> ir.ExternalTensor:
        with self._spool.open("ab") as file:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            start = file.tell()
            file.write(tensor.tobytes())
        return ir.ExternalTensor(
            self._spool.name,
            start,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(tensor.name),
            base_dir=self._spool.parent,
        )
