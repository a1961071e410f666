"""Hadamard rotations: one large input among many small ones, shared out over 64, rounds well.

A decoder with RMS norms computes the same whatever orthogonal matrix its residual stream is
multiplied by, so what writes to the stream is rotated once, in the weights, and what reads from it
is rotated back (QuaRot, arXiv 2404.00456): at run time this costs the rows of the picture alone.
The inputs of `down` are inside an MLP and are rotated by the graph, see `linear_dynamic.py`.

Measured on SmolLM2-135M over 5,525 positions of text, share of the choices of fp32: int8 in blocks
of 32 95.0 -> 96.4 %, which pays for blocks of 128 (95.2 %); w8a8 92.9 -> 94.4 %, w8a8-tensor 79.0
-> 92.5 %; int4 by GPTQ 74.7 % in blocks of 32 -> 77.5 % in blocks of 64 (to nearest it would lose).
A rotation of all 576 at once, and one of each head's values, made no further difference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import numpy as np
import onnx_ir as ir
from onnxscript import GraphBuilder

from edge_mm_export.decoder_spec import DecoderSpec
from edge_mm_export.hooks import FloatArray, constant
from edge_mm_export.precision import BLOCK, Precision
from edge_mm_export.weights import Weights

LARGEST = 64
"""Numbers that a rotation mixes, at most: the greatest power of two up to it that fits a size."""

_TABLE, _HEAD, _NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
_READS = re.compile(
    r"(model\.layers\.\d+\.)(self_attn|mlp)\.(q|k|v|qkv|gate|up|gate_up)_proj\.weight"
)
_WRITES = re.compile(r"model\.layers\.\d+\.(self_attn\.o|mlp\.down)_proj\.(weight|bias)")
_NORMS = re.compile(r"model\.(norm|layers\.\d+\.(input|post_attention)_layernorm)\.weight")
_NORM_BEFORE = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}


def rotate(rows: FloatArray) -> FloatArray:
    """[..., N] -> [..., N], each block times an orthonormal matrix that is its own inverse."""
    block = hadamard(rows.shape[-1])
    return (rows.reshape(-1, len(block)) @ block).reshape(rows.shape)


def hadamard(size: int) -> FloatArray:
    """The matrix [B, B] that fits a size, by Sylvester's construction."""
    block = np.ones((1, 1), np.float32)
    while len(block) < LARGEST and size % (2 * len(block)) == 0:
        block = np.block([[block, block], [block, -block]])
    orthonormal: FloatArray = (block / np.sqrt(len(block))).astype(np.float32)
    return orthonormal


def draw_rotation(graph: GraphBuilder, x: ir.Value, size: int) -> ir.Value:
    """`rotate` of a value [1, S, size] in fp32; a graph holds each matrix once."""
    op, block = graph.op, hadamard(size)
    name = f"rotation_{len(block)}"
    matrix = graph.graph.initializers.get(name)
    if matrix is None:
        matrix = constant(graph, block, name)
    mixed = op.MatMul(op.Reshape(x, [-1, len(block)]), matrix)
    back: ir.Value = op.Reshape(mixed, [1, -1, size])
    return back


def rotated(
    spec: DecoderSpec, weights: Weights, stored: Precision
) -> tuple[DecoderSpec, Weights, Precision]:
    """A decoder as its graph is in a precision: its residual stream rotated, if that asks for it.

    Where it cannot be, the blocks are small. That is where anything else than rows of tokens and
    picture, attention and MLP writes to the stream, or what they write is normed by itself.
    """
    if not stored.is_rotated:
        return spec, weights, stored
    if spec.post_norms or spec.gated_blocks or spec.deepstack:
        return spec, weights, stored._replace(block=BLOCK)
    drawn = msgspec.structs.replace(spec, rotated=True, tied_embeddings=False)
    return drawn, RotatedWeights(spec, weights), stored


class RotatedWeights(Weights):
    """Weights of a rotated decoder, one at a time; the gains of its norms are in what follows."""

    def __init__(self, spec: DecoderSpec, weights: Weights) -> None:
        self._spec, self._weights = spec, weights

    def __getitem__(self, name: str) -> FloatArray:
        source = _TABLE if name == _HEAD and self._spec.tied_embeddings else name
        weight = np.asarray(self._weights[source], np.float32)
        if name in (_HEAD, "region_query.weight"):
            return rotate(weight * self._gain(_NORM))
        if reads := _READS.fullmatch(name):
            return rotate(weight * self._gain(f"{reads[1]}{_NORM_BEFORE[reads[2]]}.weight"))
        if _NORMS.fullmatch(name):
            return np.full_like(weight, 1 - self._spec.norm_offset)
        if name == _TABLE or (_WRITES.fullmatch(name) and weight.ndim == 1):
            return rotate(weight)
        if _WRITES.fullmatch(name):
            return np.ascontiguousarray(rotate(weight.T).T)
        return weight

    def __contains__(self, name: object) -> bool:
        return name in self._weights or (name == _HEAD and self._spec.tied_embeddings)

    def __iter__(self) -> Iterator[str]:
        yield from self._weights
        if self._spec.tied_embeddings and _HEAD not in self._weights:
            yield _HEAD

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _gain(self, norm: str) -> FloatArray:
        return np.asarray(self._weights[norm], np.float32) + np.float32(self._spec.norm_offset)
