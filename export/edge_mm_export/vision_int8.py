"""A vision tower whose products are of 8-bit weights and 8-bit inputs, for a CPU.

Two passes over a traced fp32 graph. `int8_linears` needs nothing else: inputs are rounded by scales
that the graph measures itself. `measured_int8` needs frames, which tell the scales: there is no
kernel for a convolution without, and OpenVINO, which multiplies by AMX, has none for a linear. On
SigLIP-B/16 in ONNX Runtime the two take the same time. Weights have one scale an output channel.

As in linear_dynamic.py, x86 processors without VNNI want the runner's options.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.quantise import quantise_channels
from edge_mm_export.storage import LARGEST_FILE, computed, graph_bytes, load_constants, save_graph

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
    model = _without_gemms(model)
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


def measured_int8(
    model: ir.Model, frames: Iterable[PixelValues], scratch: Path, *, convolutions: bool = True
) -> ir.Model:
    """A copy with Q/DQ around its linears and dense convolutions, which engines fuse to kernels.

    frames are pixel_values [1, 3, H, W]; what a tensor holds on them, least to largest, is its
    range. Dense are those of all channels and more than one pixel: an output adds up so many inputs
    that the errors of their rounding cancel. In 8 bits the depthwise and 1x1 convolutions of a
    backbone move boxes beyond the export's gate. The first convolutions stay fp32 as well (ONNX
    Runtime's 8-bit kernel is slower on 3 channels), and the last ones, whose outputs are what the
    tower says. `scratch` is a folder for copies.
    """
    copy = _without_gemms(model)
    linears = [str(found.matmul.name) for node in copy.graph if (found := _product(node))]
    names = linears + (inner_convolutions(model.graph) if convolutions else [])
    if not names:
        return model
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    plain, quantised = scratch / "tower.onnx", scratch / "tower_int8.onnx"
    # The library would otherwise ask for a preparation (folding, shapes) that the tracing has done.
    copy.metadata_props["onnx.quant.pre_process"] = "onnxruntime.quant"
    save_graph(copy, plain)
    (name,) = (str(value.name) for value in model.graph.inputs)
    quantize_static(
        plain,
        quantised,
        _reader(name, frames),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv", "Add", "MatMul", *_CLAMPS],
        nodes_to_quantize=names,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        use_external_data_format=graph_bytes(plain) > LARGEST_FILE,
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},
    )
    made = ir.load(quantised)
    load_constants(made.graph)  # the files are not kept
    for node in [node for node in made.graph if node.name in linears]:
        _quantise_bias(made.graph, node)
    return made


def _without_gemms(model: ir.Model) -> ir.Model:
    """A copy with MatMul and Add for each x W^T + b, as a linear over rows [N, K] is traced."""
    model = model.clone()
    graph = model.graph
    for node in list(graph):
        if not _is_linear(node):
            continue
        x, stored, bias = (*node.inputs, None)[:3]
        assert stored is not None and stored.const_value is not None
        product = ir.node("MatMul", [x, _transposed(graph, stored)], name=node.name)
        last = product
        if bias is not None:
            (found,) = product.outputs
            found.name = f"{node.name}.product"
            found.type, found.shape = node.outputs[0].type, node.outputs[0].shape
            last = ir.node("Add", [found, bias], name=f"{node.name}.add")
        graph.insert_before(node, [product] if last is product else [product, last])
        take_place(node.outputs[0], last.outputs[0])
        graph.remove(node, safe=True)
        if not stored.uses():
            graph.initializers.pop(str(stored.name))
    return model


def _is_linear(node: ir.Node) -> bool:
    """Whether a node is x W^T + b by a constant W."""
    if node.op_type != "Gemm" or node.inputs[1] is None or node.inputs[1].const_value is None:
        return False
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
    given = plain | {name: attribute.value for name, attribute in node.attributes.items()}
    return given == plain | {"transB": 1}


def _transposed(graph: ir.Graph, stored: ir.Value) -> ir.Value:
    """The constant [N, K] as [K, N]; it is read when it is needed."""
    tensor, name = stored.const_value, f"{stored.name}.transposed"
    assert tensor is not None
    if name not in graph.initializers:
        made = computed(
            lambda: np.ascontiguousarray(tensor.numpy().T),
            tensor.dtype,
            tensor.shape.numpy()[::-1],
            name,
        )
        graph.register_initializer(ir.val(name, const_value=made))
    return graph.initializers[name]


def _quantise_bias(graph: ir.Graph, matmul: ir.Node) -> None:
    """Store the bias of a product of Q/DQ in the steps of its integers.

    ONNX Runtime makes one Gemm of the two, and computes in fp32 where the bias is no int32. One
    that 32 bits cannot hold, behind weights of about nothing, stays as it is.
    """
    input_scale, weight_scales = (_scale(value) for value in matmul.inputs)
    scales = input_scale * weight_scales
    bias_add = _bias_add(matmul, len(scales))
    if bias_add is None:
        return
    add, bias = bias_add
    values = np.rint(_array(bias).astype(np.float64) / scales)
    if np.abs(values).max() > np.iinfo(np.int32).max:
        return
    values = values.astype(np.int32)
    stored = [
        _register(graph, f"{matmul.name}.bias", values),
        _register(graph, f"{matmul.name}.bias_scales", scales),
        _register(graph, f"{matmul.name}.bias_zeros", np.zeros_like(values)),
    ]
    node = ir.node("DequantizeLinear", stored, {"axis": 0})
    graph.insert_before(matmul, node)
    add.replace_input_with(list(add.inputs).index(bias), node.outputs[0])
    if not bias.uses():
        graph.initializers.pop(str(bias.name))


def _scale(dequantised: ir.Value | None) -> npt.NDArray[np.float32]:
    """What a DequantizeLinear multiplies by."""
    node = None if dequantised is None else dequantised.producer()
    assert node is not None
    return _array(node.inputs[1])


def _array(constant: ir.Value | None) -> npt.NDArray[np.float32]:
    assert constant is not None and constant.const_value is not None
    return constant.const_value.numpy()


def _register(graph: ir.Graph, name: str, array: npt.NDArray[Any]) -> ir.Value:
    """A new constant of the graph."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value


def _product(node: ir.Node) -> _Product | None:
    """A node as the beginning of a product, or None where it is none."""
    if node.op_type != "MatMul":
        return None
    x, weight = node.inputs
    assert x is not None and weight is not None
    if x.is_initializer() or weight.const_value is None:
        return None
    _, *columns = weight.const_value.shape.numpy()
    if len(columns) != 1:
        return None
    return _Product(node, x, weight, *(_bias_add(node, *columns) or (None, None)))


def _bias_add(matmul: ir.Node, columns: int) -> tuple[ir.Node, ir.Value] | None:
    """The Add of a constant [N] that alone reads a product [..., N], and that constant."""
    (output,) = matmul.outputs
    users = [use.node for use in output.uses()]
    if len(users) != 1 or users[0].op_type != "Add" or output.is_graph_output():
        return None
    (bias,) = (value for value in users[0].inputs if value is not output)
    if bias is None or bias.const_value is None or bias.const_value.numpy().shape != (columns,):
        return None
    return users[0], bias


def _stored(graph: ir.Graph, weight: ir.Value) -> tuple[ir.Value, ir.Value]:
    """(int8 values [K, N], scales [N]) of a constant, registered once."""
    names = [f"{weight.name}.int8", f"{weight.name}.scales"]
    if names[0] not in graph.initializers:
        columns = 1
        values, scales = quantise_channels(_array(weight), columns)
        _register(graph, names[0], values)
        _register(graph, names[1], scales)
    return graph.initializers[names[0]], graph.initializers[names[1]]


def take_place(old: ir.Value, new: ir.Value) -> None:
    """Let `new` be what `old` was, name and all."""
    new.name, old.name = old.name, f"{old.name}.replaced"
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def inner_convolutions(graph: ir.Graph) -> list[str]:
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
    several = any(size > 1 for size in _array(weight).shape[2:])
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
