"""Copies of graphs that ONNX Runtime can be asked by in the memory that their file has.

It maps the weights of a file of their own, and then holds a copy of what it folds (a constant that
is cast) and of what it packs for a kernel. It does neither to a constant that is an input of the
graph as well, which a run may override. So a checkpoint of 16 bits is asked in fp32 without ever
being in fp32 as a whole: each weight is widened when it is used, which is exact.

The Casts stand at the front: ONNX Runtime goes back from the outputs, at each node first to the
input whose node stands last, so that a weight is widened just before it is used. Where they stand
before their users, all weights are widened before the first one is used (1.31, measured).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.storage import computed

_LEAST = 1 << 16  # bytes of a constant that is worth a Cast in every run
_AT_ONCE = 1 << 20  # elements
_FLOAT = ir.DataType.FLOAT
_HALVES = {ir.DataType.BFLOAT16: ml_dtypes.bfloat16, ir.DataType.FLOAT16: np.float16}


def frugal(model: ir.Model) -> ir.Model:
    """A copy of a graph that computes the same without copies of its weights; see the module.

    fp32 constants whose values all are values of bf16, or of fp16, are stored so; they and other
    constants that are only cast are inputs of the graph as well. Itself where there are none. What
    the copy stores is converted when it is saved: the files of `model` must still be there then.
    """
    copied = model.clone()
    graph = copied.graph
    found = False
    for value in list(graph.initializers.values()):
        if value.const_value is None or value.const_value.nbytes < _LEAST:
            continue
        kept = _in_half(graph, value) if value.dtype == _FLOAT else value
        if kept is None or not _widened_at_use(graph, kept):
            continue
        graph.inputs.append(kept)
        found = True
    return copied if found else model


def _in_half(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """Store an fp32 constant in 16 bits, with a Cast for those who read it; None if that rounds."""
    tensor = value.const_value
    assert tensor is not None
    dtype = _exact_type(tensor)
    if dtype is None or value.is_graph_output():
        return None
    name = f"{value.name}.{dtype.name.lower()}"
    stored = ir.val(name, const_value=_converted(tensor, dtype, name))
    stored.type, stored.shape = ir.TensorType(dtype), value.shape
    cast = ir.node("Cast", [stored], {"to": _FLOAT}, name=f"cast/{name}")
    wide = cast.outputs[0]
    value.replace_all_uses_with(wide)
    graph.initializers.pop(str(value.name))
    wide.name, wide.type, wide.shape = value.name, ir.TensorType(_FLOAT), value.shape
    graph.register_initializer(stored)
    graph.insert_before(graph.node(0), cast)
    return stored


def _widened_at_use(graph: ir.Graph, value: ir.Value) -> bool:
    """Whether a constant is only cast; of a table, the rows that are looked up are cast then."""
    casts = [use.node for use in value.uses()]
    if not casts or any(node.op_type != "Cast" for node in casts):
        return False
    for cast in casts:
        wide = cast.outputs[0]
        for node, index in list(wide.uses()):
            if node.op_type == "Gather" and index == 0:
                _cast_behind(graph, node, value, wide)
        if wide.uses() or wide.is_graph_output():
            graph.remove(cast)
            graph.insert_before(graph.node(0), cast)
        else:
            graph.remove(cast, safe=True)
    return True


def _cast_behind(graph: ir.Graph, gather: ir.Node, table: ir.Value, wide: ir.Value) -> None:
    """Let a Gather of a cast table look up the table itself, and cast what it finds."""
    rows = gather.outputs[0]
    gather.replace_input_with(0, table)
    assert wide.dtype is not None
    cast = ir.node("Cast", [rows], {"to": wide.dtype}, name=f"cast/{rows.name}")
    seen = cast.outputs[0]
    rows.replace_all_uses_with(seen, replace_graph_outputs=True)
    cast.replace_input_with(0, rows)
    seen.name, rows.name = rows.name, f"{rows.name}.stored"
    seen.type, seen.shape, rows.type = rows.type, rows.shape, table.type
    graph.insert_after(gather, cast)


def _exact_type(tensor: ir.TensorProtocol) -> ir.DataType | None:
    """The 16-bit type that has every value of an fp32 constant."""
    values = tensor.numpy().reshape(-1)
    parts = [values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE)]
    with np.errstate(over="ignore"):
        exact = [
            dtype
            for dtype, half in _HALVES.items()
            if all(np.array_equal(part.astype(half).astype(np.float32), part) for part in parts)
        ]
    del values, parts
    _let_go(tensor)
    return exact[0] if exact else None


def _converted(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str) -> ir.LazyTensor:
    def convert() -> npt.NDArray[Any]:
        half = tensor.numpy().astype(_HALVES[dtype])
        _let_go(tensor)
        return half

    return computed(convert, dtype, tensor.shape.numpy(), name)


def _let_go(tensor: ir.TensorProtocol) -> None:
    """What was read of a file is memory until it is closed."""
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()
