"""Which places of the cache a new token may see."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec

Visible = Callable[[int | None], ir.Value]
"""Draws bool [S, C]: which places of the cache each of the S new tokens may see, the last
`window` of them or all."""


def visibility(
    graph: GraphBuilder, spec: DecoderSpec, places: ir.Value, every: ir.Value
) -> Visible:
    """`places` i64 of S elements are those of the new tokens, `every` i64 [C] all of the cache."""
    op = graph.op

    def visible(window: int | None) -> ir.Value:
        rows = op.Reshape(places, [-1, 1])
        last, whole = _last_seen(graph, spec, rows)
        seen: ir.Value = op.LessOrEqual(every, last)
        if window is None:
            return seen
        near = op.Greater(every, op.Sub(rows, op.Constant(value_int=window)))
        if whole is not None:
            near = op.Or(near, whole)
        both: ir.Value = op.And(seen, near)
        return both

    return visible


def _last_seen(
    graph: GraphBuilder, spec: DecoderSpec, rows: ir.Value
) -> tuple[ir.Value, ir.Value | None]:
    """The last place [S, 1] that each token sees, and whether this pass knows no window."""
    op = graph.op
    match spec.bidirectional:
        case None:
            return rows, None
        case "picture":
            ids = op.Reshape(input_named(graph, "input_ids"), [-1, 1])
            row = op.Sub(ids, op.Constant(value_int=spec.vocab_size))
            zero, one = op.Constant(value_int=0), op.Constant(value_int=1)
            count = op.Shape(input_named(graph, "image_embeds"), start=0, end=1)
            ahead = op.Sub(op.Sub(count, one), row)
            reach = op.Where(op.GreaterOrEqual(row, zero), ahead, zero)
            return op.Add(rows, reach), None
        case "prompt":
            first, last = op.ReduceMin(rows), op.ReduceMax(rows)
            is_prompt = op.Equal(first, op.Constant(value_int=0))
            return op.Where(is_prompt, last, rows), is_prompt


def input_named(graph: GraphBuilder, name: str) -> ir.Value:
    """An input that has been declared."""
    return next(value for value in graph.graph.inputs if value.name == name)
