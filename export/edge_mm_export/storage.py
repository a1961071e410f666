"""Graphs on disk: one file, or a second one beside it that holds the weights.

A protobuf may have 2 GiB, and is in memory three times while it is written, twice while it is read.
Weights of more than a few MB go into `<name>.data`, which is copied by the system, ONNX Runtime
maps into memory, and TensorRT finds when it is given the path of the graph (`parse_from_file`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript import GraphBuilder

LARGEST_FILE = 64 << 20
"""Bytes of constants in one file; more of them lie in a second one."""

_KEPT = 1024  # bytes of a constant that is not worth a place in a file of its own
_ALIGNMENT = 64
_PAGE = 4096  # what is mapped begins at one


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a graph to `path`, its weights to `<path>.data` where they are too many for one file.

    The model may have constants in other files, which must still be there.
    """
    constants = [value.const_value for value in model.graph.initializers.values()]
    if sum(tensor.nbytes for tensor in constants if tensor is not None) > LARGEST_FILE:
        ir.save(
            model,
            path,
            external_data=f"{path.name}.data",
            size_threshold_bytes=_KEPT,
            alignment=_PAGE,
            align_threshold=_KEPT,
        )
        return
    load_constants(model.graph)
    ir.save(model, path)


def load_constants(graph: ir.Graph) -> None:
    """Read the constants that lie in other files, which need not stay then."""
    for value in graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.tensor(np.array(value.const_value.numpy()), name=value.name)


def graph_files(path: Path) -> tuple[Path, ...]:
    """The files that a graph at `path` lies in."""
    weights = path.with_name(f"{path.name}.data")
    return (path, weights) if weights.is_file() else (path,)


def graph_bytes(path: Path) -> int:
    """The size of a graph with its weights."""
    return sum(file.stat().st_size for file in graph_files(path))


class Spool:
    """A file that constants are kept in, instead of in memory, until their graph is saved."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.write_bytes(b"")

    def stored(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """The tensor as it lies in the file now; a small one as it is."""
        if tensor.nbytes <= _KEPT:
            return tensor
        with self._path.open("ab") as file:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            start = file.tell()
            if isinstance(tensor, ir.Tensor):
                tensor.tofile(file)  # without a copy
            else:
                file.write(tensor.tobytes())
        return ir.ExternalTensor(
            self._path.name,
            start,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(tensor.name),
            base_dir=self._path.parent,
        )


def spooled(model: ir.Model, path: Path) -> ir.Model:
    """A copy of a graph with its constants in a file, which must stay as long as the copy.

    They are read again whenever they are asked for, and the copy does not hold what was traced: not
    in `meta`, where torch.onnx.export puts it.
    """
    copied = model.clone()
    graph = copied.graph
    made = (value for node in graph for value in node.outputs)
    for value in (*made, *graph.inputs, *graph.initializers.values()):
        value.meta.clear()
    for node in graph:
        node.meta.clear()
    graph.meta.clear()
    copied.meta.clear()
    spool = Spool(path)
    for value in graph.initializers.values():
        if value.const_value is not None:
            stored = spool.stored(value.const_value)
            value.const_value = _lazy(stored) if isinstance(stored, ir.ExternalTensor) else stored
    return copied


def _lazy(stored: ir.ExternalTensor) -> ir.LazyTensor:
    def read() -> ir.TensorProtocol:
        values = np.array(stored.numpy())
        stored.release()  # what was read of a file is memory until it is closed
        return ir.Tensor(values, dtype=stored.dtype, name=stored.name)

    return ir.LazyTensor(read, stored.dtype, stored.shape, name=stored.name)


def computed(
    array: Callable[[], npt.NDArray[Any]], dtype: ir.DataType, shape: Sequence[int], name: str
) -> ir.LazyTensor:
    """A constant that is computed each time it is read, and not kept."""
    return ir.LazyTensor(
        lambda: ir.Tensor(array(), dtype=dtype, name=name), dtype, ir.Shape(shape), name=name
    )


class SpoolingBuilder(GraphBuilder):
    """A graph builder that keeps constants in a file, and in memory only the one it is given.

    The file must stay until the graph is saved.
    """

    def __init__(self, graph: ir.Graph, spool: Path) -> None:
        super().__init__(graph)
        self._spool = Spool(spool)

    def initializer(
        self, tensor: ir.TensorProtocol, name: str | None = None, *, qualify: bool = True
    ) -> ir.Value:
        """Register a constant; see the class."""
        stored = self._spool.stored(tensor)
        value: ir.Value = super().initializer(stored, name, qualify=qualify)
        return value
