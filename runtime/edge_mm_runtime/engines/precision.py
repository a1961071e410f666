"""Which precisions a GPU computes, so that a build that must fail is refused before it starts.

Table of https://docs.nvidia.com/deeplearning/tensorrt/latest/getting-started/support-matrix.html:
FP8 came with Ada and Hopper, FP4 with Blackwell. Orin (SM87) has neither, Thor (SM110) has both.
"""

from __future__ import annotations

from collections.abc import Iterable

from edge_mm_runtime.engines.errors import EngineError

OLDEST = {"bf16": 80, "int4": 80, "fp8": 89, "fp4": 100}
"""The least compute capability of each precision; one that is not listed runs everywhere."""

BITS = {
    "fp32": 32.0,
    "fp16": 16.0,
    "bf16": 16.0,
    "int8": 8.5,
    "int8-channel": 8.0,
    "w8a8": 8.0,
    "fp8": 8.0,
    "int4": 4.5,
    "fp4": 4.5,
}
"""Bits of a weight, with the 16-bit scale of its block of 32 where it has one."""

_OFFERED = {"tensorrt": ("fp16", "int8", "int4"), "tensorrt-10.3": ("fp16", "int8")}

_DATA_TYPES = {"BF16": "bf16", "INT4": "int4", "FP8": "fp8", "FP4": "fp4", "E8M0": "fp4"}


def check_precision(
    precisions: Iterable[str], compute_capability: int, target: str, where: str
) -> None:
    """EngineError for the first precision that the GPU lacks; it names what to export instead."""
    for precision in precisions:
        oldest = OLDEST.get(precision, 0)
        if compute_capability < oldest:
            nearest = sorted(
                offered(compute_capability, target),
                key=lambda name: abs(BITS[name] - BITS[precision]),
            )
            raise EngineError(
                f"{where} computes in {precision}, which needs SM{oldest} or newer, this build is "
                f"for SM{compute_capability}: export the checkpoint again with --precision "
                f"{' or '.join(nearest)}"
            )


def offered(compute_capability: int, target: str) -> list[str]:
    """Precisions that the target's graphs come in and the GPU has, the largest first."""
    return [name for name in _OFFERED[target] if compute_capability >= OLDEST.get(name, 0)]


def precisions_of(data_types: Iterable[str]) -> list[str]:
    """Names of TensorRT data types -> the precisions among them that not every GPU has."""
    return sorted({_DATA_TYPES[name] for name in data_types if name in _DATA_TYPES})
