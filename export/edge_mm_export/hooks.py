"""The four places where a decoder graph differs by target.

`decoder.py` draws everything else once. A target is a function that declares the cache inputs its
attention needs on the graph and returns its `Hooks`: see `hooks_cpu.py`. S is the number of
tokens in a pass; weights arrive as torch stores them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Attended:
    """What one attention layer gives: its mixed heads [1, S, heads*head_dim] and its new cache."""

    output: ir.Value
    present_key: ir.Value
    present_value: ir.Value


@dataclass(frozen=True)
class Hooks:
    """One target's way to draw the four operations."""

    linear: Callable[[ir.Value, str, FloatArray], ir.Value]
    """(x [1, S, K], name, weight [N, K]) -> [1, S, N]"""
    norm: Callable[[ir.Value, str, FloatArray], ir.Value]
    """(x [1, S, D], name, weight [D]) -> RMS norm of x"""
    add_norm: Callable[[ir.Value, ir.Value, str, FloatArray], tuple[ir.Value, ir.Value]]
    """(x, residual, name, weight [D]) -> (RMS norm of their sum, their sum)"""
    attention: Callable[[ir.Value, int], Attended]
    """(packed queries, keys, values [1, S, qkv_size]; layer) -> `Attended`, RoPE included"""


def initializer(values: npt.NDArray[np.generic], name: str) -> ir.TensorProtocol:
    """A named constant for `GraphBuilder.initializer`, which puts the module's path before it."""
    return ir.tensor(np.ascontiguousarray(values), name=name)
