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

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edge_mm.model.edge_mm import VISION_OUTPUTS
from edge_mm_export.cast import lowered
from edge_mm_export.precision import Precision
from edge_mm_export.vision_int8 import int8_linears

_OPSETS = {"tensorrt-10.3": 20}  # from 23 on attention is one operator, which that parser lacks
_LATEST = 23
_SMALL = 1024  # constants of fewer elements are not worth a Cast
_LARGEST_HALF = 65504.0
_SCALED = ("QuantizeLinear", "DequantizeLinear", "MatMulIntegerToFloat")  # by constants as they are


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
    (and its convolutions, where `traced` has been through `int8_convolutions`).
    """
    dtype = ir.DataType[precision.activations]
    if has_int8_tower(precision):
        return halved(int8_linears(traced))
    if dtype != ir.DataType.FLOAT:
        return lowered(traced, dtype, fp32_islands)
    return traced if precision.weights == "float" else halved(traced)


def has_int8_tower(precision: Precision) -> bool:
    """Whether the vision graph of a precision computes in 8 bits, as its decoder does."""
    return precision.weights in ("w8a8-dynamic", "w8a8-tensor")


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
