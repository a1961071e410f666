"""The nodes of an ONNX file, read without the onnx package, which a robot does not carry.

TensorRT's parser takes an Attention whose input 6 (nonpad_kv_seqlen, opset 24) says how many cached
tokens count, and drops that input: without a word where it was computed in the graph, and with the
warning "Unused Input" where it is an input of the graph (measured on TensorRT-RTX 1.7.1). Such an
engine attends to stale tokens, so the graph is refused before it is parsed.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (ModelProto, NodeProto); the
encoding: https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_mm_runtime.engines.errors import EngineError

_GRAPH, _NODE = 7, 1  # of ModelProto, of GraphProto
_INPUT, _NAME, _OPERATOR = 1, 3, 4  # of NodeProto
_NONPAD_KV_SEQLEN = 6


class Node(NamedTuple):
    """A node of the main graph; an optional input that is not given is ""."""

    name: str
    operator: str
    inputs: tuple[str, ...]


def check_nodes(path: Path) -> None:
    """EngineError for a graph that TensorRT would read as another one."""
    for node in read_nodes(path):
        if node.operator == "Attention" and any(node.inputs[_NONPAD_KV_SEQLEN:]):
            raise EngineError(
                f"{path.name}: node {node.name} (Attention) gives nonpad_kv_seqlen, which TensorRT "
                "drops in silence: export the graph with a mask instead"
            )


def read_nodes(path: Path) -> Iterator[Node]:
    """The nodes in file order; EngineError for what is no ONNX model. Weights are skipped."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in _fields(data, 0, len(data), _GRAPH):
                for first, last in _fields(data, start, end, _NODE):
                    yield _node(data, first, last)
    except (IndexError, ValueError):  # an empty file, or an end before the end
        raise EngineError(f"{path} is no ONNX model: export the bundle again") from None


def _node(data: mmap.mmap, start: int, end: int) -> Node:
    def texts(field: int) -> tuple[str, ...]:
        return tuple(data[a:b].decode() for a, b in _fields(data, start, end, field))

    return Node("".join(texts(_NAME)), "".join(texts(_OPERATOR)), texts(_INPUT))


def _fields(data: mmap.mmap, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each length-delimited field `wanted` of the message in data[start:end]."""
    at = start
    while at < end:
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == 2:  # length-delimited
            size, at = _varint(data, at)
            if at + size > end:
                raise ValueError("a field ends after its message")
            if field == wanted:
                yield at, at + size
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):  # 64 and 32 bits
            at += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number and where the next byte lies."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
