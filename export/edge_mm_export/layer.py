"""The parts of a decoder layer that are the same for every target, with what families vary.

Weights by their transformers names: `model.layers.{i}.` and `self_attn.q_proj.weight`,
`self_attn.q_norm.weight`, `mlp.gate_proj.weight`, `input_layernorm.weight` and so on.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.hooks import FloatArray, Hooks, constant

Take = Callable[..., FloatArray]
"""(name, *shape) -> that weight; ExportError if it is missing or of another shape."""


class LayerParts:
    """Draws projections, biases, norms and the MLP of layer i of a spec."""

    def __init__(self, graph: GraphBuilder, hooks: Hooks, spec: DecoderSpec, take: Take) -> None:
        self._graph, self._hooks, self._spec, self._take = graph, hooks, spec, take
        self._query_size = spec.heads * spec.head_dim
        self._kv_size = spec.kv_heads * spec.head_dim

    def gain(self, layer: int, name: str) -> FloatArray:
        """A norm's weight [D] of a layer, Gemma's 1 added."""
        return self._gain(f"model.layers.{layer}.{name}", self._spec.hidden_size)

    def final_gain(self) -> FloatArray:
        """The weight [D] of the norm after the last layer."""
        return self._gain("model.norm", self._spec.hidden_size)

    def queries_keys_values(self, normed: ir.Value, layer: int) -> ir.Value:
        """[1, S, D] -> packed [1, S, qkv_size], with biases and norms over heads, not rotated."""
        spec, at = self._spec, f"model.layers.{layer}.self_attn"
        sizes = [self._query_size, self._kv_size, self._kv_size]
        if spec.fused_projections:
            weight = self._take(f"{at}.qkv_proj.weight", sum(sizes), spec.hidden_size)
        else:
            weight = np.concatenate(self._each(at, "qkv", sizes, "weight", spec.hidden_size))
        name = f"layers.{layer}.qkv"
        packed = self._hooks.linear(normed, name, weight)
        if spec.qkv_bias:
            bias = np.concatenate(self._each(at, "qkv", sizes, "bias"))
            packed = self._add_bias(packed, name, bias)
        return self._norm_heads(packed, layer) if spec.qk_norm else packed

    def attention_output(self, mixed: ir.Value, layer: int) -> ir.Value:
        """[1, S, heads * head_dim] -> [1, S, D]."""
        spec, name = self._spec, f"layers.{layer}.o"
        at = f"model.layers.{layer}.self_attn.o_proj"
        weight = self._take(f"{at}.weight", spec.hidden_size, self._query_size)
        output = self._hooks.linear(mixed, name, weight)
        if spec.output_bias:
            output = self._add_bias(output, name, self._take(f"{at}.bias", spec.hidden_size))
        return self._post_norm(output, layer, "post_attention_layernorm")

    def feed_forward(self, normed: ir.Value, layer: int) -> ir.Value:
        """[1, S, D] -> [1, S, D] by down(activation(gate) * up)."""
        op, spec = self._graph.op, self._spec
        at, name = f"model.layers.{layer}.mlp", f"layers.{layer}"
        width, inner = spec.hidden_size, spec.intermediate_size
        if spec.fused_projections:
            weight = self._take(f"{at}.gate_up_proj.weight", 2 * inner, width)
        else:
            each = [self._take(f"{at}.{part}_proj.weight", inner, width) for part in ("gate", "up")]
            weight = np.concatenate(each)
        gate_up = self._hooks.linear(normed, f"{name}.gate_up", weight)
        if spec.mlp_bias:
            biases = [self._take(f"{at}.{part}_proj.bias", inner) for part in ("gate", "up")]
            gate_up = self._add_bias(gate_up, f"{name}.gate_up", np.concatenate(biases))
        gate, up = op.Split(gate_up, axis=-1, num_outputs=2, _outputs=2)
        hidden = op.Mul(self._activate(gate), up)
        weight = self._take(f"{at}.down_proj.weight", width, inner)
        down = self._hooks.linear(hidden, f"{name}.down", weight)
        if spec.mlp_bias:
            down = self._add_bias(down, f"{name}.down", self._take(f"{at}.down_proj.bias", width))
        return self._post_norm(down, layer, "post_feedforward_layernorm")

    def _each(
        self, at: str, parts: str, sizes: list[int], kind: str, *columns: int
    ) -> list[FloatArray]:
        return [
            self._take(f"{at}.{part}_proj.{kind}", rows, *columns)
            for part, rows in zip(parts, sizes, strict=True)
        ]

    def _gain(self, name: str, size: int) -> FloatArray:
        weight = self._take(f"{name}.weight", size)
        return weight + np.float32(self._spec.norm_offset) if self._spec.norm_offset else weight

    def _post_norm(self, x: ir.Value, layer: int, name: str) -> ir.Value:
        if not self._spec.post_norms:
            return x
        return self._hooks.norm(x, f"layers.{layer}.{name}", self.gain(layer, name))

    def _add_bias(self, x: ir.Value, name: str, bias: FloatArray) -> ir.Value:
        stored = constant(self._graph, bias, f"{name}.bias", self._hooks.dtype)
        total: ir.Value = self._graph.op.Add(x, stored)
        return total

    def _norm_heads(self, packed: ir.Value, layer: int) -> ir.Value:
        """Packed projections with every query and key head RMS-normed by itself."""
        op, spec = self._graph.op, self._spec
        sizes = [self._query_size, self._kv_size, self._kv_size]
        query, key, value = op.Split(packed, sizes, axis=-1, _outputs=3)

        def norm(x: ir.Value, size: int, part: str) -> ir.Value:
            gain = self._gain(f"model.layers.{layer}.self_attn.{part}_norm", spec.head_dim)
            heads = op.Reshape(x, [1, -1, size // spec.head_dim, spec.head_dim])
            normed = self._hooks.norm(heads, f"layers.{layer}.{part}_norm", gain)
            whole: ir.Value = op.Reshape(normed, [1, -1, size])
            return whole

        query, key = norm(query, sizes[0], "q"), norm(key, sizes[1], "k")
        joined: ir.Value = op.Concat(query, key, value, axis=-1)
        return joined

    def _activate(self, gate: ir.Value) -> ir.Value:
        op = self._graph.op
        match self._spec.activation:
            case "silu":
                activated: ir.Value = op.Mul(gate, op.Sigmoid(gate))
            case "gelu":
                activated = op.Gelu(gate)
            case "gelu_tanh":
                activated = op.Gelu(gate, approximate="tanh")
        return activated
