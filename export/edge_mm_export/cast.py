"""Three passes over the types of a graph: to compute in 16 bits or not, and to check it on a CPU.

`lowered` makes an fp32 graph compute in fp16 or bf16 between fp32 inputs and outputs; `widened`
lets nodes of a 16-bit graph compute in fp32. `emulated` makes a 16-bit graph one that ONNX
Runtime's CPU provider rounds as a GPU does: every node computes in fp32, and what it gives is
rounded. By itself ONNX Runtime has no bf16 kernels, and keeps fp32 from one node to the next where
it has none for fp16, so that an overflow would go unseen.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.storage import computed

_FLOAT = ir.DataType.FLOAT
_LARGEST = {ir.DataType.FLOAT16: 65504.0, ir.DataType.BFLOAT16: float.fromhex("0x1.fep127")}
_CONSTANTS = ("Constant", "ConstantOfShape")
_FP32_OPERANDS = {("Resize", 1), ("Resize", 2)}
"""(operator, input) that must be fp32 by the specification: regions and scales."""


def lowered(model: ir.Model, dtype: ir.DataType, fp32_islands: Collection[str] = ()) -> ir.Model:
    """A copy of an fp32 graph that computes in `dtype`; its inputs and outputs stay fp32.

    Nodes named in `fp32_islands` stay fp32 with casts around them. Constants beyond the range of
    `dtype` (masks, mostly) become its largest value. ExportError for an island that is no node.
    """
    model = model.clone()
    graph = model.graph
    _check_typed(graph)
    _check_names(graph, fp32_islands)
    floats = {value for value in _values(graph) if value.dtype == _FLOAT}
    exact = _store(graph, dtype)
    casts = _Casts("lowered")
    for node in list(graph):
        island = node.name in fp32_islands
        wanted = _FLOAT if island else dtype
        if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", wanted)
        elif node.op_type in _CONSTANTS and "value" in node.attributes:
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


def widened(model: ir.Model, nodes: Collection[str]) -> ir.Model:
    """A copy of a 16-bit graph whose nodes of these names compute in fp32.

    What passes from one of them to the next stays fp32. Their constants are stored in fp32, rounded
    as they are; inputs and outputs of the graph keep their types. ExportError for a name that no
    node has.
    """
    model = model.clone()
    graph = model.graph
    _check_names(graph, nodes)
    casts = _Casts("widened")
    halves: dict[ir.Value, ir.DataType] = {}  # by value that is fp32 now, what it was
    for node in list(graph):
        island = node.name in nodes and node.op_type not in _CONSTANTS
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if island and value.dtype in _LARGEST:
                wide = value.is_initializer() and _stored_in_fp32(graph, value)
                node.replace_input_with(index, wide or casts(value, _FLOAT, node))
            elif value in halves and not island and node.op_type != "Cast":
                node.replace_input_with(index, casts(value, halves[value], node))
        if not island:
            continue
        if node.op_type == "Cast" and node.attributes["to"].as_int() in _LARGEST:
            node.attributes["to"] = ir.AttrInt64("to", _FLOAT)
        for output in node.outputs:
            if output.dtype in _LARGEST:
                halves[output] = output.dtype
                output.type = ir.TensorType(_FLOAT)  # a clone shares its types with the original
    for index, output in enumerate(graph.outputs):
        if output in halves:
            node = ir.node("Cast", [output], {"to": halves[output]}, name=f"cast/{output.name}")
            outside = node.outputs[0]
            outside.name, output.name = output.name, f"{output.name}.computed"
            outside.type, outside.shape = ir.TensorType(halves[output]), output.shape
            graph.append(node)
            graph.outputs[index] = outside
    for value in list(graph.initializers.values()):
        if not value.uses():
            graph.initializers.pop(str(value.name))
    return model


def emulated(model: ir.Model) -> ir.Model:
    """A copy of a 16-bit graph that computes in fp32 and rounds to 16 bits after every node."""
    model = model.clone()
    casts = _Casts("emulated")
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
    """Casts of values, each made once, before the node that needs it first.

    `purpose` is part of their names, for a graph may go through several passes.
    """

    def __init__(self, purpose: str) -> None:
        self._purpose = purpose
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def __call__(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._made:
            name = f"{value.name}.{self._purpose}.{dtype.name.lower()}"
            node = ir.node("Cast", [value], {"to": dtype}, name=f"cast/{name}")
            made = node.outputs[0]
            made.name = name
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
    node = ir.node("Cast", [value], {"to": seen}, name=f"cast/{value.name}")
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


def _stored_in_fp32(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """The fp32 copy of a 16-bit constant, stored once."""
    name = f"{value.name}.fp32"
    if name not in graph.initializers:
        assert value.const_value is not None
        stored = value.const_value
        exact = computed(
            lambda: stored.numpy().astype(np.float32), _FLOAT, stored.shape.numpy(), name
        )
        kept = ir.val(name, const_value=exact)
        kept.type, kept.shape = ir.TensorType(_FLOAT), value.shape
        graph.register_initializer(kept)
    return graph.initializers[name]


def _rounded(
    tensor: ir.TensorProtocol, dtype: ir.DataType, name: str | None = None
) -> ir.TensorProtocol:
    if tensor.dtype == dtype:
        return tensor
    largest = _LARGEST[dtype]
    values = np.clip(tensor.numpy(), -largest, largest).astype(dtype.numpy())
    return ir.tensor(values, name=name or tensor.name)


def _check_typed(graph: ir.Graph) -> None:
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise UnsupportedError(f"{node.name} ({node.op_type}) has a graph of its own")
    untyped = [value.name for value in _values(graph) if value.dtype is None]
    if untyped:
        raise UnsupportedError(f"the type of {untyped[0]} is unknown: it cannot be cast")


def _check_names(graph: ir.Graph, fp32_islands: Collection[str]) -> None:
    names = {node.name for node in graph}
    for name in fp32_islands:
        if name not in names:
            raise ExportError(f"the graph has no node {name!r} to keep in fp32")


def _values(graph: ir.Graph) -> list[ir.Value]:
    made = [value for node in graph for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]
