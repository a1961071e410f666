"""The decoder graph: token ids and picture rows in, logits of the last position out.

Inputs `input_ids` i64 [1, S] (an id >= vocab_size is row id - vocab_size of `image_embeds`
f32 [T, D]; with gated blocks no id is, see `fusion.py`) and the target's cache inputs; outputs
`logits` f32 [1, V], `region_query` f32 [1, K] when the model has a box head, and
`present.{i}.key|value`. Prefill, append and decode are this one graph. In between everything is
of the precision's type. Weights are read one at a time, by their transformers names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.deepstack import deepstack_rows, split_rows
from edge_mm_export.errors import ExportError
from edge_mm_export.fusion import Blocks, gated_blocks
from edge_mm_export.hadamard import draw_rotation, rotated
from edge_mm_export.hooks import FloatArray, Hooks, Linear, cast, constant
from edge_mm_export.hooks_cpu import contrib_hooks
from edge_mm_export.hooks_primitive import primitive_hooks
from edge_mm_export.hooks_tensorrt import tensorrt_hooks
from edge_mm_export.layer import LayerParts, Take
from edge_mm_export.linear import BlockWeights, Scales, linear_hook
from edge_mm_export.precision import Precision, find_precision
from edge_mm_export.quantise import quantise_channels
from edge_mm_export.query_scale import fold_scale
from edge_mm_export.storage import SpoolingBuilder

Weights = Mapping[str, npt.NDArray[np.floating]]


class _Target(NamedTuple):
    """How a target's graphs are drawn."""

    hooks: Callable[[GraphBuilder, DecoderSpec, ir.DataType, Linear], Hooks]
    opsets: dict[str, int]
    capacity: str | None = None  # name of the cache's open dimension; None: fixed to the context


_TARGETS = {
    "cpu": _Target(contrib_hooks, {"": 23, "com.microsoft": 1}, "capacity"),
    "cuda": _Target(contrib_hooks, {"": 23, "com.microsoft": 1}, "capacity"),
    "tensorrt": _Target(tensorrt_hooks, {"": 24}),
    "tensorrt-10.3": _Target(primitive_hooks, {"": 20}),
}


def build_decoder(
    spec: DecoderSpec,
    weights: Weights,
    *,
    target: str = "cpu",
    precision: str | None = None,
    scales: Scales | None = None,
    quantised: BlockWeights | None = None,
    spool: Path | None = None,
) -> ir.Model:
    """Draw the graph of `spec` with the hooks of `target`; save it with `storage.save_graph`.

    `weights` holds a state dict by the names of transformers' Llama, whatever else a family has by
    its own (see `layer.py`); with a box head also `region_query.weight` [K, D] and
    `region_query.bias` [K], with gated blocks `fusion.blocks.{n}.*`. `scales` and `quantised` are
    by name of a linear, see `linear.py`.
    Constants are kept in the file `spool`, if one is given, until the graph is saved; else in
    memory. Raises `UnsupportedError` for an unknown target or
    precision, `ExportError` for a missing or misshapen weight.
    """
    _, stored = find_precision(target, precision)
    spec, weights, stored = rotated(spec, weights, stored)
    if target == "cpu":
        spec, weights, quantised = fold_scale(spec, weights, quantised)
    drawn = _TARGETS[target]
    empty = ir.Graph([], [], nodes=[], opset_imports=dict(drawn.opsets), name="edge_mm_decoder")
    graph = GraphBuilder(empty) if spool is None else SpoolingBuilder(empty, spool)
    take = _taker(weights)
    input_ids = graph.input("input_ids", ir.DataType.INT64, [1, "sequence"])
    image_embeds = graph.input("image_embeds", ir.DataType.FLOAT, ["image_rows", spec.image_size])
    contrib = "com.microsoft" in drawn.opsets
    linear = linear_hook(graph, stored, contrib=contrib, scales=scales, quantised=quantised)
    dtype = stored.dtype
    hooks = drawn.hooks(graph, spec, dtype, linear)

    table = take("model.embed_tokens.weight", spec.vocab_size, spec.hidden_size)
    rows, steps = _table(graph, spec, stored, table)
    pictures = [] if spec.gated_blocks else split_rows(graph, spec, image_embeds)
    picture = pictures[0] if pictures else None
    x = cast(graph, _embed(graph, rows, steps, input_ids, picture, spec), dtype)
    if spec.deepstack:
        blocks = deepstack_rows(graph, spec, dtype, input_ids, pictures[1:])
    else:
        blocks = gated_blocks(graph, hooks, spec, take, image_embeds)
    normed, presents = _layers(graph, hooks, spec, take, blocks, x)

    last = graph.op.Squeeze(normed, [1])
    if spec.tied_embeddings and stored.weights == "float":  # one constant for both
        logits = graph.op.Gemm(last, rows, transB=1)
    else:  # read again: a table kept while the layers are drawn is memory for nothing
        head = "model.embed_tokens.weight" if spec.tied_embeddings else "lm_head.weight"
        logits = hooks.linear(last, "lm_head", take(head, spec.vocab_size, spec.hidden_size))
    logits = cast(graph, logits, ir.DataType.FLOAT)
    if spec.logit_softcap is not None:
        cap = graph.op.Constant(value_float=spec.logit_softcap)
        logits = graph.op.Mul(graph.op.Tanh(graph.op.Div(logits, cap)), cap)
    _output(graph, logits, "logits", ir.DataType.FLOAT, [1, spec.vocab_size])
    if spec.region_size is not None:
        last = cast(graph, normed, ir.DataType.FLOAT)
        query = _region_query(graph, take, last, spec.region_size, spec.hidden_size)
        _output(graph, query, "region_query", ir.DataType.FLOAT, [1, spec.region_size])
    capacity = drawn.capacity or spec.context
    for name, value in presents.items():
        _output(graph, value, name, dtype, [1, spec.kv_heads, capacity, spec.head_dim])
    return ir.Model(graph.graph, ir_version=10, producer_name="edge_mm_export")


def residual_name(layer: int) -> str:
    """Name of the value that holds the residual stream after `layer`, for drift reports."""
    return f"residual.{layer}"


def _taker(weights: Weights) -> Take:
    def take(name: str, *shape: int) -> FloatArray:
        if name not in weights:
            raise ExportError(f"the checkpoint has no weight {name!r}")
        weight = weights[name]
        if weight.shape != shape:
            raise ExportError(f"weight {name!r} is {weight.shape}, the config implies {shape}")
        return np.asarray(weight, dtype=np.float32)

    return take


def _table(
    graph: GraphBuilder, spec: DecoderSpec, stored: Precision, values: FloatArray
) -> tuple[ir.Value, ir.Value | None]:
    """The token table [V, D]; beside rotated and rounded weights int8 with the rows' steps [V, 1].

    Linux maps 16 pages of a file where one is read: random ids soon make all of a table resident.
    """
    name = "embed_tokens.weight"
    if not spec.rotated or stored.weights == "float":
        return constant(graph, values, name, ir.DataType[stored.table]), None
    rows, steps = quantise_channels(values, 0)
    return constant(graph, rows, name), constant(graph, steps[:, None], "embed_tokens.scales")


def _embed(
    graph: GraphBuilder,
    rows: ir.Value,
    steps: ir.Value | None,
    input_ids: ir.Value,
    image_embeds: ir.Value | None,
    spec: DecoderSpec,
) -> ir.Value:
    """fp32 rows of the token table, or of the picture, if any, where the id is past the table.

    `steps` [V, 1] are what one step of each row is worth where the table is int8.
    """
    op = graph.op
    exact = ir.DataType.FLOAT

    def word_rows(ids: ir.Value) -> ir.Value:
        found = cast(graph, op.Gather(rows, ids), exact)
        if steps is not None:
            found = op.Mul(found, op.Gather(steps, ids))
        if spec.embedding_scale == 1:
            return found
        scaled: ir.Value = op.Mul(found, op.Constant(value_float=spec.embedding_scale))
        return scaled

    if image_embeds is None:
        return word_rows(input_ids)
    first, zero = op.Constant(value_int=spec.vocab_size), op.Constant(value_int=0)
    is_image = op.GreaterOrEqual(input_ids, first)
    words = word_rows(op.Where(is_image, zero, input_ids))
    picture = op.Gather(image_embeds, op.Where(is_image, op.Sub(input_ids, first), zero))
    if spec.rotated:
        picture = draw_rotation(graph, picture, spec.hidden_size)
    embedded: ir.Value = op.Where(op.Unsqueeze(is_image, [-1]), picture, words)
    return embedded


def _layers(
    graph: GraphBuilder, hooks: Hooks, spec: DecoderSpec, take: Take, blocks: Blocks, x: ir.Value
) -> tuple[ir.Value, dict[str, ir.Value]]:
    """All layers, gated blocks and the final norm: (last position [1, 1, D], cache outputs)."""
    op = graph.op
    parts = LayerParts(graph, hooks, spec, take)
    presents: dict[str, ir.Value] = {}
    residual = blocks(x, 0)
    normed = hooks.norm(residual, "layers.0.input_norm", parts.gain(0, "input_layernorm"))
    for i in range(spec.layers):
        graph.push_module(f"layers.{i}")
        name = f"layers.{i}"
        attended = hooks.attention(parts.queries_keys_values(normed, i), i)
        presents[f"present.{i}.key"] = attended.present_key
        presents[f"present.{i}.value"] = attended.present_value
        mixed = attended.output
        if i == spec.layers - 1:  # only the last position is asked for: stop carrying the others
            mixed, residual = (op.Gather(v, [-1], axis=1) for v in (mixed, residual))
        mixed = parts.attention_output(mixed, i)
        before_mlp = "pre_feedforward_layernorm" if spec.post_norms else "post_attention_layernorm"
        normed, residual = hooks.add_norm(
            mixed, residual, f"{name}.post_attention_norm", parts.gain(i, before_mlp)
        )
        down = parts.feed_forward(normed, i)
        last = i + 1 == spec.layers
        gain = parts.final_gain() if last else parts.gain(i + 1, "input_layernorm")
        if i + 1 < spec.layers and i + 1 in spec.interrupted:
            after = op.Add(down, residual)
            residual = blocks(after, i + 1)
            normed = hooks.norm(residual, f"{name}.next_norm", gain)
        else:
            normed, residual = hooks.add_norm(down, residual, f"{name}.next_norm", gain)
            after = residual
        if not spec.rotated:  # else it is not what torch has there
            after.name = residual_name(i)
        graph.pop_module()
    return blocks(normed, spec.layers), presents


def _region_query(
    graph: GraphBuilder, take: Take, normed: ir.Value, size: int, width: int
) -> ir.Value:
    """The box head's query at the last position; small, so it stays fp32 in every precision."""
    op = graph.op
    weight, bias = take("region_query.weight", size, width), take("region_query.bias", size)
    query: ir.Value = op.Gemm(
        op.Squeeze(normed, [1]),
        constant(graph, weight, "region_query.weight"),
        constant(graph, bias, "region_query.bias"),
        transB=1,
    )
    return query


def _output(
    graph: GraphBuilder, value: ir.Value, name: str, dtype: ir.DataType, shape: list[int | str]
) -> None:
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
    graph.add_output(value, name)
