"""Two passes over the types of a graph: to compute in 16 bits, and to check that on a CPU.

`lowered` makes an fp32 graph compute in fp16 or bf16 between fp32 inputs and outputs. `emulated`
makes a 16-bit graph one that ONNX Runtime's CPU provider rounds as a GPU does: every node computes
in fp32, and what it gives is rounded. By itself ONNX Runtime has no bf16 kernels, and keeps fp32
from one node to the next where it has none for fp16, so that an overflow would go unseen.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edge_mm_export.errors import ExportError, UnsupportedError

_FLOAT = ir.DataType.FLOAT
_LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: float.fromhex("0x1.fep127")}
_FP32_OPERANDS = {("Resize", 1), ("Resize", 2)}
"""(operator, input) that must be fp32 by the specification: regions and scales."""


def lowered(model: ir.Model, dtype: ir.DataType, fp32_islands: Collection[str] = ()) -> ir.Model:
    """A copy of an fp32 graph that computes in `dtype`; its inputs and outputs stay fp32.

    Nodes named in `fp32_islands` stay fp32 with casts around them. Constants beyond the range of
    `dtype` (masks, mostly) become its largest value. ExportError for an island that is no node.
    """
    model = model.clone()
    graph = model.graph
    _check(graph, fp32_islands)
    floats = {value for value in _values(graph) if value.dtype == _FLOAT}
    exact = _store(graph, dtype)
    casts = _Casts()
    for node in list(graph):
        island = node.name in fp32_islands
        wanted = _FLOAT if island else dtype
        if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", wanted)
        elif node.op_type in ("Constant", "ConstantOfShape") and "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            if tensor.dtype == _FLOAT:
                node.attributes["value"] = ir.AttrTensor("value", _rounded(tensor, wanted))
        for index, value in enumerate(node.inputs):
            if value in floats:
                operand = _FLOAT if (node.op_type, index) in _FP32_OPERANDS else wanted
                given = exact[value] if operand == _FLOAT and value in exact else value
                node.replace_input_with(index, casts(given, operand, node))
        for output in node.outputs:
            if output in floats:
                output.type = ir.TensorType(wanted)  # a clone shares its types with the original
    for stored, kept in exact.items():
        if kept.uses():
            graph.register_initializer(kept)
        if not stored.uses():
            graph.initializers.pop(str(stored.name))
    _outputs_in_fp32(graph)
    return model


def emulated(model: ir.Model) -> ir.Model:
    """A copy of a 16-bit graph that computes in fp32 and rounds to 16 bits after every node."""
    model = model.clone()
    casts = _Casts()
    for node in list(model.graph):
        if node.op_type == "Cast":
            continue
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in _LARGEST:
                node.replace_input_with(index, casts(value, _FLOAT, node))
        for output in node.outputs:
            if output.dtype in _LARGEST:
                _append_cast(model.graph, output, _FLOAT, output.dtype)
    return model


class _Casts:
    """Casts of values, each made once, before the node that needs it first."""

    def __init__(self) -> None:
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def __call__(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._made:
            node = ir.node("Cast", [value], {"to": dtype})
            made = node.outputs[0]
            made.name = f"{value.name}.{dtype.name.lower()}"
            made.type, made.shape = ir.TensorType(dtype), value.shape
            assert before.graph is not None
            before.graph.insert_before(before, node)
            self._made[value, dtype] = made
        return self._made[value, dtype]


def _append_cast(
    graph: ir.Graph, value: ir.Value, computed: ir.DataType, seen: ir.DataType
) -> None:
    """Let a node's output be `computed`, and what its users see under its name a cast of it."""
    producer = value.producer()
    assert producer is not None
    node = ir.node("Cast", [value], {"to": seen})
    outside = node.outputs[0]
    value.replace_all_uses_with(outside, replace_graph_outputs=True)
    node.replace_input_with(0, value)
    outside.name, value.name = value.name, f"{value.name}.computed"
    outside.type, outside.shape = ir.TensorType(seen), value.shape
    value.type = ir.TensorType(computed)
    graph.insert_after(producer, node)


def _outputs_in_fp32(graph: ir.Graph) -> None:
    for output in list(graph.outputs):
        if output.dtype in _LARGEST:
            _append_cast(graph, output, output.dtype, _FLOAT)


def _store(graph: ir.Graph, dtype: ir.DataType) -> dict[ir.Value, ir.Value]:
    """Round the fp32 constants of a graph; by each, what it was, not yet in the graph."""
    exact = {}
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.dtype == _FLOAT:
            kept = ir.val(f"{value.name}.fp32", const_value=tensor)
            kept.type, kept.shape = ir.TensorType(_FLOAT), value.shape
            exact[value] = kept
            value.const_value = _rounded(tensor, dtype, value.name)
            value.type = ir.TensorType(dtype)
    return exact


def _rounded(
    tensor: ir.TensorProtocol, dtype: ir.DataType, name: str | None = None
) -> ir.TensorProtocol:
    if tensor.dtype == dtype:
        return tensor
    largest = _LARGEST[dtype]
    values = np.clip(tensor.numpy(), -largest, largest).astype(dtype.numpy())
    return ir.tensor(values, name=name or tensor.name)


def _check(graph: ir.Graph, fp32_islands: Collection[str]) -> None:
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise UnsupportedError(f"{node.name} ({node.op_type}) has a graph of its own")
    names = {node.name for node in graph}
    for name in fp32_islands:
        if name not in names:
            raise ExportError(f"the graph has no node {name!r} to keep in fp32")
    untyped = [value.name for value in _values(graph) if value.dtype is None]
    if untyped:
        raise UnsupportedError(f"the type of {untyped[0]} is unknown: it cannot be cast")


def _values(graph: ir.Graph) -> list[ir.Value]:
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]
