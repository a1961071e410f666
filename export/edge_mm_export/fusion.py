"""Gated cross attention in the decoder graph: the blocks of `edge_mm.model.fusion`.

`image_embeds` f32 [T, 2 * blocks * D] are keys and values of every block, which the vision graph
has computed once for the frame. The gates are constants by now: their tanh is multiplied into the
weights behind them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.hooks import FloatArray, Hooks, cast

Blocks = Callable[[ir.Value, int], ir.Value]


def gated_blocks(
    graph: GraphBuilder,
    hooks: Hooks,
    spec: DecoderSpec,
    take: Callable[..., FloatArray],
    image_embeds: ir.Value,
) -> Blocks:
    """(x [1, S, D], layer) -> x after the blocks that run before this layer, as torch runs them."""
    if not spec.gated_blocks:
        return lambda x, layer: x
    op = graph.op
    parts = 2 * len(spec.gated_blocks)
    memory = cast(graph, image_embeds, hooks.dtype)
    memory = op.Split(memory, axis=-1, num_outputs=parts, _outputs=parts)

    def draw(x: ir.Value, layer: int) -> ir.Value:
        for number, place in enumerate(spec.gated_blocks):
            if place == layer:
                graph.push_module(f"fusion.{number}")
                keys, values = memory[2 * number : 2 * number + 2]
                x = _block(graph, hooks, spec, take, number, x, keys, values)
                graph.pop_module()
        return x

    return draw


def _block(
    graph: GraphBuilder,
    hooks: Hooks,
    spec: DecoderSpec,
    take: Callable[..., FloatArray],
    number: int,
    x: ir.Value,
    keys: ir.Value,
    values: ir.Value,
) -> ir.Value:
    """x [1, S, D] looks at keys and values [T, D], then a feed-forward network."""
    op = graph.op
    width, inner, heads = spec.hidden_size, spec.intermediate_size, spec.gated_heads
    size = width // heads
    name, at = f"fusion.{number}", f"fusion.blocks.{number}"
    opened = {part: np.tanh(take(f"{at}.{part}_gate")) for part in ("attention", "feed_forward")}

    def by_head(rows: ir.Value, order: list[int]) -> ir.Value:
        split = op.Reshape(rows, op.Constant(value_ints=[-1, heads, size]))
        ordered: ir.Value = op.Transpose(split, perm=order)
        return ordered

    normed = hooks.norm(x, f"{name}.attention_norm", take(f"{at}.attention_norm.weight", width))
    scaled = take(f"{at}.query.weight", width, width) * np.float32(size**-0.5)
    query = by_head(hooks.linear(normed, f"{name}.query", scaled), [1, 0, 2])
    mass = op.Softmax(op.MatMul(query, by_head(keys, [1, 2, 0])), axis=-1)  # [heads, S, T]
    seen = op.Transpose(op.MatMul(mass, by_head(values, [1, 0, 2])), perm=[1, 0, 2])
    seen = op.Reshape(seen, op.Constant(value_ints=[1, -1, width]))
    output = take(f"{at}.output.weight", width, width) * opened["attention"]
    x = op.Add(x, hooks.linear(seen, f"{name}.output", output))

    normed = hooks.norm(
        x, f"{name}.feed_forward_norm", take(f"{at}.feed_forward_norm.weight", width)
    )
    hidden = op.Gelu(hooks.linear(normed, f"{name}.up", take(f"{at}.up.weight", inner, width)))
    down = take(f"{at}.down.weight", width, inner) * opened["feed_forward"]
    sum_: ir.Value = op.Add(x, hooks.linear(hidden, f"{name}.down", down))
    return sum_
