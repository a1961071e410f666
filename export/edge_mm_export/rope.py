"""Rotary position embeddings (arXiv:2104.09864): tables, and which of them a layer turns by."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec, LinearRope, Llama3Rope
from edge_mm_export.hooks import constant

Tables = tuple[ir.Value, ir.Value]


class Rope:
    """The cosines and sines of a graph, a pair for each theta that a layer uses.

    A table is [context, rotary_dim / 2]. With `spec.rope_axes` the input `rope_positions`
    i64 [axes, S] is declared, and the tables are those of a pass: [1, S, rotary_dim / 2].
    """

    def __init__(self, graph: GraphBuilder, spec: DecoderSpec, dtype: ir.DataType) -> None:
        self._graph, self._spec, self._dtype = graph, spec, dtype
        self._drawn: dict[str, Tables] = {}
        self._positions: ir.Value | None = None
        if spec.rope_axes:
            axes = np.arange(max(spec.rope_axes) + 1)
            chosen = (axes[:, None, None] == np.array(spec.rope_axes)).astype(np.float32)
            self._chosen = constant(graph, chosen, "rope.axes", dtype)
            self._positions = graph.input(
                "rope_positions", ir.DataType.INT64, [len(axes), "sequence"]
            )
        self._by_layer = [self._tables(layer) for layer in range(spec.layers)]

    @property
    def by_axes(self) -> bool:
        """Whether the tables are of the pass, and not of every place in the cache."""
        return self._positions is not None

    def tables(self, layer: int) -> Tables | None:
        """Cosines and sines of a layer; None where it does not rotate."""
        return self._by_layer[layer]

    def _tables(self, layer: int) -> Tables | None:
        spec = self._spec
        if layer in spec.nope_layers:
            return None
        local = layer in spec.sliding_layers and spec.local_rope_theta is not None
        name = "rope_local" if local else "rope"
        if name not in self._drawn:
            cosines, sines = self._constants(name, frequencies(spec, local))
            if self._positions is not None:
                cosines, sines = (
                    self._by_axes(table, self._positions) for table in (cosines, sines)
                )
            self._drawn[name] = (cosines, sines)
        return self._drawn[name]

    def _constants(self, name: str, turns: npt.NDArray[np.float64]) -> Tables:
        angles = np.outer(np.arange(self._spec.context), turns)
        return (
            constant(self._graph, np.cos(angles), f"{name}.cosines", self._dtype),
            constant(self._graph, np.sin(angles), f"{name}.sines", self._dtype),
        )

    def _by_axes(self, table: ir.Value, positions: ir.Value) -> ir.Value:
        """[context, F], [axes, S] -> [1, S, F]: of each frequency the row of its own axis."""
        op = self._graph.op
        turned: ir.Value = op.ReduceSum(
            op.Mul(op.Gather(table, positions), self._chosen),
            op.Constant(value_ints=[0]),
            keepdims=1,
        )
        return turned


def frequencies(spec: DecoderSpec, local: bool = False) -> npt.NDArray[np.float64]:
    """Radians a token by dimension pair, [rotary_dim / 2]; `local`: of Gemma 3's sliding layers."""
    size = spec.rotary_dim or spec.head_dim
    powers = np.arange(0, size, 2) / size
    if local and spec.local_rope_theta is not None:
        unscaled: npt.NDArray[np.float64] = spec.local_rope_theta**-powers
        return unscaled
    turns: npt.NDArray[np.float64] = spec.rope_theta**-powers
    match spec.rope_scaling:
        case LinearRope(factor):
            return turns / factor
        case Llama3Rope() as scaling:
            return _llama3(turns, scaling)
        case None:
            return turns


def _llama3(turns: npt.NDArray[np.float64], scaling: Llama3Rope) -> npt.NDArray[np.float64]:
    """As in Meta's `apply_scaling`: the ramp is linear in waves per original context."""
    waves = scaling.original_context * turns / (2 * np.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = np.clip((waves - scaling.low_freq_factor) / span, 0, 1)
    scaled: npt.NDArray[np.float64] = kept * turns + (1 - kept) * turns / scaling.factor
    return scaled
