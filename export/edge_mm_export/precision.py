"""Targets and precisions: what a decoder computes in, and how the weights of its linears lie.

| weights      | layout                                            | activations          |
|--------------|---------------------------------------------------|----------------------|
| float        | as the activations                                | as they are          |
| int8         | blocks of 32 inputs, one scale each               | as they are          |
| int4         | the same, fitted by GPTQ                          | as they are          |
| int8-channel | one scale an output channel                       | as they are          |
| w8a8         | int8, one scale an output channel                 | int8, static scales  |
| w8a8-dynamic | the same; lm_head as in int8                      | int8, token's scales |
| w8a8-tensor  | int8, one scale an output channel                 | int8, scale of all   |
| fp8          | float8 e4m3, one scale an output channel          | float8, static scale |

Where `cpu` rounds the inputs of linears to 8 bits, the residual stream is rotated before, see
`hadamard.py`.

On `cpu` the kernel rounds the inputs of int8 and int4 in the same blocks, and most of what int8
loses is lost there: on SmolLM2-135M blocks of 64 or 128 take 5 % off a step and 1.4 or 2.6 points
of 95.3 % same choices, which GPTQ cannot make up for.

TensorRT's fused attention knows no fp32, so `tensorrt` has none. TensorRT 10.3 reads opsets up to
20, in which int4 and scales for blocks do not exist, so `tensorrt-10.3` has neither.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from edge_mm_export.errors import UnsupportedError

Activations = Literal["FLOAT", "FLOAT16", "BFLOAT16"]  # members of onnx_ir.DataType
Weights = Literal[
    "float", "int8", "int4", "int8-channel", "w8a8", "w8a8-dynamic", "w8a8-tensor", "fp8"
]


class Precision(NamedTuple):
    """What flows between the linears of a decoder, and what their weights are stored as."""

    activations: Activations
    weights: Weights = "float"

    @property
    def table(self) -> Activations:
        """What the token table is stored as, but in w8a8-tensor, where it is int8."""
        exact = self.activations != "FLOAT" or self.weights == "float"
        return self.activations if exact else "FLOAT16"

    @property
    def needs_scales(self) -> bool:
        """Whether the inputs of linears are quantised by static scales, which frames give."""
        return self.weights in ("w8a8", "fp8")

    @property
    def one_scale(self) -> bool:
        """Whether the inputs of a linear have one scale for all that is read in a pass."""
        return self.weights == "w8a8-tensor"

    @property
    def is_rotated(self) -> bool:
        """Whether inputs are rounded to 8 bits as they come, so that outliers among them cost."""
        rounds = self.weights == "int8" and self.activations == "FLOAT"
        return rounds or self.weights in ("w8a8-dynamic", "w8a8-tensor")

    @property
    def is_calibrated(self) -> bool:
        """Whether quantising needs frames: to measure activations, or to fit weights by GPTQ."""
        return self.needs_scales or self.weights == "int4"


PRECISIONS: dict[str, dict[str, Precision]] = {
    "cpu": {
        "int8": Precision("FLOAT", "int8"),
        "fp32": Precision("FLOAT"),
        "int4": Precision("FLOAT", "int4"),
        "w8a8": Precision("FLOAT", "w8a8-dynamic"),
        "w8a8-tensor": Precision("FLOAT", "w8a8-tensor"),
    },
    "cuda": {
        "fp16": Precision("FLOAT16"),
        "int8": Precision("FLOAT16", "int8"),
        "int4": Precision("FLOAT16", "int4"),
    },
    "tensorrt": {
        "fp16": Precision("FLOAT16"),
        "bf16": Precision("BFLOAT16"),
        "int8": Precision("FLOAT16", "int8"),
        "int8-channel": Precision("FLOAT16", "int8-channel"),
        "int4": Precision("FLOAT16", "int4"),
        "w8a8": Precision("FLOAT16", "w8a8"),
        "fp8": Precision("FLOAT16", "fp8"),
    },
    "tensorrt-10.3": {
        "fp16": Precision("FLOAT16"),
        "fp32": Precision("FLOAT"),
        "int8": Precision("FLOAT16", "int8-channel"),
        "w8a8": Precision("FLOAT16", "w8a8"),
    },
}
"""The precisions that each target's decoder can be built in, the default first."""

EXACT = ("cpu", "fp32")
"""The graphs that every export is compared with before anything is rounded."""


def find_precision(target: str, precision: str | None) -> tuple[str, Precision]:
    """A target's precision by name, or its default; UnsupportedError naming those it has."""
    if target not in PRECISIONS:
        raise UnsupportedError(f"unknown target {target!r}; known: {', '.join(PRECISIONS)}")
    known = PRECISIONS[target]
    name = precision or next(iter(known))
    if name not in known:
        raise UnsupportedError(
            f"target {target!r} has no precision {name!r}; it has: {', '.join(known)}"
        )
    return name, known[name]


def export_steps(target: str, precision: str) -> tuple[tuple[str, str], ...]:
    """(target, precision) of each step of an export: exact, lowered, with stored weights."""
    _, wanted = find_precision(target, precision)
    plain = next(k for k, v in PRECISIONS[target].items() if v == Precision(wanted.activations))
    return tuple(dict.fromkeys([EXACT, (target, plain), (target, precision)]))
