"""The vision graph: pixels in, everything the decoder and the box head need of a frame out.

`pixel_values` f32 [1, 3, H, W] -> `image_embeds` f32 [1, T, D] and, with a box head,
`region_keys` f32 [1, P, K] and `region_boxes` f32 [1, P, 6]. Traced by torch.onnx.export, which
also folds batch norms into their convolutions.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from edge_mm.model.edge_mm import VISION_OUTPUTS
from edge_mm_export.cast import lowered
from edge_mm_export.precision import Precision
from edge_mm_export.vision_int8 import int8_linears, take_place

_OPSETS = {"tensorrt-10.3": 20}  # from 23 on attention is one operator, which that parser lacks
_LATEST = 23
_SMALL = 1024  # constants of fewer elements are not worth a Cast
_LARGEST_HALF = 65504.0
_SCALED = ("QuantizeLinear", "DequantizeLinear", "MatMulIntegerToFloat")  # by constants as they are


class _Rows(NamedTuple):
    """All heads of each token."""

    rows: ir.Value  # [B, S, heads * size]
    heads: int


class _EmbedsOnly(nn.Module):
    """Drops the box head, so that tracing drops its weights too."""

    def __init__(self, vision: nn.Module) -> None:
        super().__init__()
        self.vision = vision

    def forward(self, pixel_values: Tensor) -> Tensor:
        embeds: Tensor = self.vision(pixel_values)[0]
        return embeds


def trace_vision(
    vision: nn.Module, *, width: int, height: int, box_head: bool, target: str = "cpu"
) -> ir.Model:
    """The fp32 graph of `model.vision_graph()` at one input size, in operators of a target."""
    traced = (vision if box_head else _EmbedsOnly(vision)).eval()
    example = torch.zeros(1, 3, height, width)
    with quiet():
        program = torch.onnx.export(
            traced,
            (example,),
            dynamo=True,
            opset_version=_OPSETS.get(target, _LATEST),
            input_names=["pixel_values"],
            output_names=list(VISION_OUTPUTS if box_head else VISION_OUTPUTS[:1]),
            verbose=False,
        )
    assert program is not None  # only a call with a path of its own returns None
    return program.model


def stored_vision(
    traced: ir.Model, precision: Precision, fp32_islands: Collection[str] = ()
) -> ir.Model:
    """The vision graph beside a decoder of a precision; fp32 between its border, see `lowered`.

    Its weights are floats but beside the 8-bit products of `cpu`, where its linears are such too
    (and its convolutions, where `traced` has been through `measured_int8`).
    """
    if has_int8_tower(precision):
        return halved(in_fast_forms(int8_linears(traced)))
    if precision.halves:
        return lowered(traced, precision.dtype, fp32_islands)
    return traced if precision.weights == "float" else halved(traced)


def has_int8_tower(precision: Precision) -> bool:
    """Whether the vision graph of a precision computes in 8 bits, as its decoder does."""
    return precision.weights in ("w8a8-dynamic", "w8a8-tensor")


def in_fast_forms(model: ir.Model) -> ir.Model:
    """A copy that computes the same by what ONNX Runtime's CPU kernels are faster at.

    Attention reads and gives rows of all heads (its 3-D form) instead of copies with the heads
    first, which one thread makes. An Add that only a LayerNormalization reads is a Sum: ONNX
    Runtime would join the Add to a SkipLayerNormalization, whose kernel adds number by number. It
    takes 650 us for 196 rows of 768 in one thread, the two operators 80.
    """
    model = model.clone()
    graph = model.graph
    for node in list(graph):
        if node.op_type == "Attention":
            _attend_by_rows(graph, node)
        elif node.op_type == "LayerNormalization":
            _keep_sum(graph, node)
    RemoveUnusedNodesPass()(model)
    return model


def _attend_by_rows(graph: ir.Graph, attention: ir.Node) -> None:
    """Leave out the copies around an Attention, if nothing else stands between it and the rows."""
    given = _rows_made_of(attention.outputs[0])
    read = [rows for value in attention.inputs[:3] if (rows := _rows_behind(value)) is not None]
    if given is None or len(read) < 3:
        return  # queries that are rotated, for instance
    queries, keys, values = read
    made = ir.node(
        "Attention",
        [queries.rows, keys.rows, values.rows, *attention.inputs[3:]],
        {**attention.attributes, "q_num_heads": queries.heads, "kv_num_heads": keys.heads},
        name=attention.name,
    )
    graph.insert_before(attention, made)
    take_place(given, made.outputs[0])


def _rows_behind(value: ir.Value | None) -> _Rows | None:
    """The rows that a value [B, heads, S, size] is a copy of."""
    copy = None if value is None else value.producer()
    if copy is None or not _swaps_heads(copy):
        return None
    by_head = copy.inputs[0]
    split = None if by_head is None else by_head.producer()
    if split is None or split.op_type != "Reshape":
        return None
    rows = split.inputs[0]
    if rows is None or (heads := _heads(rows, by_head)) is None:
        return None
    return _Rows(rows, heads)


def _rows_made_of(value: ir.Value) -> ir.Value | None:
    """The rows [B, S, heads * size] that a value [B, heads, S, size] is only copied to."""
    copy = _only_reader(value)
    if copy is None or not _swaps_heads(copy):
        return None
    joined = _only_reader(copy.outputs[0])
    if joined is None or joined.op_type != "Reshape":
        return None
    rows = joined.outputs[0]
    return None if _heads(rows, copy.outputs[0]) is None else rows


def _heads(rows: ir.Value, by_head: ir.Value | None) -> int | None:
    """How many heads, where the values are [B, S, heads * size] and [B, S, heads, size]."""
    if by_head is None or rows.shape is None or by_head.shape is None:
        return None
    whole, parts = rows.shape.dims, by_head.shape.dims
    if len(whole) != 3 or len(parts) != 4 or whole[:2] != parts[:2]:
        return None
    heads, size = parts[2:]
    if not isinstance(heads, int) or not isinstance(size, int) or whole[2] != heads * size:
        return None
    return heads


def _swaps_heads(node: ir.Node) -> bool:
    """Whether a node changes [B, S, heads, size] and [B, heads, S, size] into each other."""
    order = node.attributes.get("perm") if node.op_type == "Transpose" else None
    return order is not None and tuple(order.as_ints()) == (0, 2, 1, 3)


def _keep_sum(graph: ir.Graph, norm: ir.Node) -> None:
    """Let the Add before a LayerNormalization be a Sum, if nothing else reads it."""
    read = norm.inputs[0]
    add = None if read is None else read.producer()
    if read is None or add is None or add.op_type != "Add" or _only_reader(read) is not norm:
        return
    made = ir.node("Sum", add.inputs, name=add.name)
    graph.insert_before(add, made)
    take_place(read, made.outputs[0])


def _only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, which is no output of the graph."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def halved(model: ir.Model) -> ir.Model:
    """A copy whose large constants are fp16, cast back by a node that engines fold at load.

    It still computes in fp32. Measured on nano's tower: per-channel int8 weights halve the file
    again, but move boxes 25 times as far; and ONNX Runtime does not fold their `DequantizeLinear`
    unless it is told to, which doubles the time of a frame.
    """
    model = model.clone()
    graph = model.graph
    first = graph.node(0)
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALL:
            continue
        if any(use.node.op_type in _SCALED for use in value.uses()):
            continue
        exact = tensor.numpy()
        if np.abs(exact).max() > _LARGEST_HALF:
            continue
        half = ir.tensor(exact.astype(np.float16), name=f"{value.name}.fp16")
        stored = ir.val(half.name, const_value=half)
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
        cast.outputs[0].name = f"{value.name}.fp32"
        cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, value.shape
        value.replace_all_uses_with(cast.outputs[0])
        graph.initializers.pop(str(value.name))
        graph.register_initializer(stored)
        graph.insert_before(first, cast)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torch.onnx.export prints a line for each of its phases, warns, and logs what it survives."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
