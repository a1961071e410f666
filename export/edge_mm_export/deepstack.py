"""DeepStack (arXiv:2406.04334): further rows of a picture, added after the first layers.

`image_embeds` f32 [T, (1 + n) * D]: the first D of a row are what the sequence starts with, the
next D are added to the picture's places after the first layer, and so on.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.fusion import Blocks
from edge_mm_export.hooks import cast


def split_rows(graph: GraphBuilder, spec: DecoderSpec, image_embeds: ir.Value) -> list[ir.Value]:
    """The parts [T, D] of a picture's rows, in the order in which layers add them."""
    if not spec.deepstack:
        return [image_embeds]
    parts = 1 + spec.deepstack
    return list(graph.op.Split(image_embeds, axis=-1, num_outputs=parts, _outputs=parts))


def deepstack_rows(
    graph: GraphBuilder,
    spec: DecoderSpec,
    dtype: ir.DataType,
    input_ids: ir.Value,
    further: list[ir.Value],
) -> Blocks:
    """(x [1, S, D], layer) -> x with the rows that are added before this layer."""
    op = graph.op
    first, zero = op.Constant(value_int=spec.vocab_size), op.Constant(value_int=0)
    is_image = op.Unsqueeze(op.GreaterOrEqual(input_ids, first), [-1])
    places = op.Max(op.Sub(input_ids, first), zero)
    nothing = op.Constant(value_float=0.0)

    def add(x: ir.Value, layer: int) -> ir.Value:
        if not 1 <= layer <= len(further):
            return x
        rows = op.Where(is_image, op.Gather(further[layer - 1], places), nothing)
        total: ir.Value = op.Add(x, cast(graph, rows, dtype))
        return total

    return add
