"""Islands: parts of 16-bit graphs that compute in fp32, where a value leaves the range of 16 bits.

A node of the vision graph is known by the name that torch gave it. A part of the decoder is a
linear, `layers.0.down`, or one of the other nodes of a layer by its operator and its number there,
`layers.0.Mul.1`: names that are the same in every precision of a target.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

import msgspec
import onnx_ir as ir

from edge_mm_export.cast import widened
from edge_mm_export.errors import ExportError

_LINEAR = ("MatMul", "MatMulNBits", "Gemm", "QuantizeLinear", "DequantizeLinear")
_CONSTANT_OF_LINEAR = re.compile(r"(.+)\.(weight(_\w+)?|input_scale)")
"""Names of constants as `linear.py` stores them: which linear, and what of it."""
_TIED = {"embed_tokens": "lm_head"}
"""A linear that multiplies by another part's weight, by the name of that part."""


class Islands(msgspec.Struct, frozen=True):
    """What stays fp32 in the graphs of a bundle; bundle.json keeps it."""

    vision: tuple[str, ...] = ()
    decoder: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.vision or self.decoder)

    def __str__(self) -> str:
        """For a message: every name after that of its graph."""
        named = [f"vision {name}" for name in self.vision]
        return ", ".join([*named, *(f"decoder {name}" for name in self.decoder)])


NO_ISLANDS = Islands()


def decoder_parts(decoder: ir.Model) -> dict[str, list[ir.Node]]:
    """By name of a part of a decoder graph, its nodes."""
    parts: dict[str, list[ir.Node]] = {}
    numbers: Counter[str] = Counter()
    for node in decoder.graph:
        name = linear_name(node)
        if name is None:
            layer, slash, _ = str(node.name).rpartition("/")
            operator = f"{layer}{slash and '.'}{node.op_type}"
            name = f"{operator}.{numbers[operator]}"
            numbers[operator] += 1
        parts.setdefault(name, []).append(node)
    return parts


def with_islands(decoder: ir.Model, names: Collection[str]) -> ir.Model:
    """A 16-bit decoder whose parts of these names compute in fp32; itself if there are none."""
    if not names:
        return decoder
    parts = decoder_parts(decoder)
    missing = [name for name in names if name not in parts]
    if missing:
        raise ExportError(f"the decoder has no part {missing[0]!r} to keep in fp32")
    return widened(decoder, {str(node.name) for name in names for node in parts[name]})


def linear_name(node: ir.Node) -> str | None:
    """The linear that a node belongs to, as the names of its constants tell."""
    if node.op_type not in _LINEAR:
        return None
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if value is not None and value.is_initializer():
            found = _CONSTANT_OF_LINEAR.fullmatch(str(value.name))
            if found:
                return _TIED.get(found[1], found[1])
        elif producer is not None and producer.op_type == "DequantizeLinear":
            return linear_name(producer)
    return None
