"""A vision tower whose products are of 8-bit weights and 8-bit inputs, for ONNX Runtime on a CPU.

Two passes over a traced fp32 graph. `int8_linears` needs nothing else: its inputs are rounded by
scales that the graph measures itself. `int8_convolutions` needs frames: there is no kernel for a
convolution whose scales are not known beforehand. Weights have one scale an output channel.

As in linear_dynamic.py, x86 needs VNNI for products that do not saturate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.quantise import quantise_channels
from edge_mm_export.storage import load_constants, save_graph

_CONTRIB = "com.microsoft"
_CLAMPS = ("Relu", "Clip")

PixelValues = npt.NDArray[np.float32]


class _Product(NamedTuple):
    """y = x W + bias: a MatMul and, if there is a bias, the Add after it."""

    matmul: ir.Node
    x: ir.Value
    weight: ir.Value  # [K, N]
    add: ir.Node | None
    bias: ir.Value | None  # [N]

    @property
    def last(self) -> ir.Node:
        """The node that gives y."""
        return self.add or self.matmul


def int8_linears(model: ir.Model) -> ir.Model:
    """A copy in which every MatMul by a constant matrix is one of integers, bias included.

    An input is rounded once, to uint8 by its least and largest value, for all products that read it
    (com.microsoft::MatMulIntegerToFloat; ONNX Runtime fuses a lone one to DynamicQuantizeMatMul).
    """
    model = model.clone()
    graph = model.graph
    rounded: dict[ir.Value, tuple[ir.Value, ...]] = {}
    for product in [found for node in graph if (found := _product(node))]:
        x, weight = product.x, product.weight
        if x not in rounded:
            node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3)
            for value, part in zip(node.outputs, ("uint8", "scale", "zero"), strict=True):
                value.name = f"{x.name}.{part}"
            graph.insert_before(product.matmul, node)
            rounded[x] = tuple(node.outputs)
        values, scale, zero = rounded[x]
        weight_int8, weight_scales = _stored(graph, weight)
        node = ir.node(
            "MatMulIntegerToFloat",
            [values, weight_int8, scale, weight_scales, zero, None, product.bias],
            domain=_CONTRIB,
            name=product.matmul.name,
        )
        graph.insert_before(product.last, node)
        take_place(product.last.outputs[0], node.outputs[0])
        graph.remove([one for one in (product.add, product.matmul) if one], safe=True)
        if not weight.uses():
            graph.initializers.pop(str(weight.name))
    if rounded:
        graph.opset_imports[_CONTRIB] = 1
    return model


def int8_convolutions(model: ir.Model, frames: Iterable[PixelValues], scratch: Path) -> ir.Model:
    """A copy with Q/DQ around its dense convolutions, which ONNX Runtime fuses to QLinearConv.

    frames are pixel_values [1, 3, H, W]; what a tensor holds on them, least to largest, is its
    range. Dense are those of all channels and more than one pixel: an output adds up so many inputs
    that the errors of their rounding cancel. In 8 bits the depthwise and 1x1 convolutions of a
    backbone move boxes beyond the export's gate. The first convolutions stay fp32 as well (ONNX
    Runtime's 8-bit kernel is slower on 3 channels), and the last ones, whose outputs are what the
    tower says. `scratch` is a folder for copies.
    """
    names = _convolutional(model.graph)
    if not names:
        return model
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    plain, quantised = scratch / "tower.onnx", scratch / "tower_int8.onnx"
    copy = model.clone()
    # The library would otherwise ask for a preparation (folding, shapes) that the tracing has done.
    copy.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    save_graph(copy, plain)
    (name,) = (str(value.name) for value in model.graph.inputs)
    quantize_static(
        plain,
        quantised,
        _reader(name, frames),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Add", *_CLAMPS],
        nodes_to_quantize=names,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    made = ir.load(quantised)
    load_constants(made.graph)  # the files are not kept
    return made


def _product(node: ir.Node) -> _Product | None:
    """A node as the beginning of a product, or None where it is none."""
    if node.op_type != "MatMul":
        return None
    x, weight = node.inputs
    assert x is not None and weight is not None
    if x.is_initializer() or weight.const_value is None or weight.const_value.numpy().ndim != 2:
        return None
    columns = weight.const_value.numpy().shape[1]
    bias = None
    (output,) = node.outputs
    users = [use.node for use in output.uses()]
    if len(users) == 1 and users[0].op_type == "Add" and not output.is_graph_output():
        (bias,) = (value for value in users[0].inputs if value is not output)
    if bias is None or bias.const_value is None or bias.const_value.numpy().shape != (columns,):
        return _Product(node, x, weight, None, None)
    return _Product(node, x, weight, users[0], bias)


def _stored(graph: ir.Graph, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(int8 values [K, N], scales [N]) of a constant, registered once."""
    names = [f"{weight.name}.int8", f"{weight.name}.scales"]
    if names[0] not in graph.initializers:
        assert weight.const_value is not None
        exact, columns = weight.const_value.numpy(), 1
        values, scales = quantise_channels(exact, columns)
        for tensor in (ir.tensor(values, name=names[0]), ir.tensor(scales, name=names[1])):
            graph.register_initializer(ir.val(tensor.name, const_value=tensor))
    return graph.initializers[names[0]], graph.initializers[names[1]]


def take_place(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be what `old` was, name and all."""
    new.name, old.name = old.name, f"{old.name}.replaced"
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def _convolutional(graph: ir.Graph) -> list[str]:
    """The nodes to quantise: dense convolutions between the first and the last, what joins them."""
    after = _downstream(graph)
    before = _upstream(graph)
    convolutions = [
        node
        for node in graph
        if _is_dense(node) and node.inputs[0] in after and node.outputs[0] in before
    ]
    known = {value for node in convolutions for value in (node.inputs[0], node.outputs[0])}
    chosen = set(convolutions)
    for node in graph:
        joins = node.op_type in _CLAMPS and node.inputs[0] in known
        joins |= node.op_type == "Add" and all(value in known for value in node.inputs)
        if joins:
            chosen.add(node)
            known.update(node.outputs)
    return [str(node.name) for node in graph if node in chosen]


def _is_dense(node: ir.Node) -> bool:
    """Whether a node is a convolution over all channels and more than one pixel."""
    if node.op_type != "Conv":
        return False
    weight, groups = node.inputs[1], node.attributes.get("group")
    assert weight is not None and weight.const_value is not None
    several = any(size > 1 for size in weight.const_value.numpy().shape[2:])
    return several and (groups is None or groups.as_int() == 1)


def _downstream(graph: ir.Graph) -> set[ir.Value | None]:
    """Values that come of a convolution."""
    found: set[ir.Value | None] = set()
    for node in graph:
        if node.op_type == "Conv" or not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _upstream(graph: ir.Graph) -> set[ir.Value | None]:
    """Values that a convolution is made of."""
    found: set[ir.Value | None] = set()
    for node in reversed(graph):
        if node.op_type == "Conv" or not found.isdisjoint(node.outputs):
            found.update(value for value in node.inputs if value is not None)
    return found


def _reader(name: str, frames: Iterable[PixelValues]) -> Any:
    """Frames as the library reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[PixelValues] = iter(frames)

        def get_next(self) -> Mapping[str, PixelValues] | None:
            frame = next(self._left, None)
            return None if frame is None else {name: frame}

    return Reader()
