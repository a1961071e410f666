"""Targets and precisions: what a decoder computes in, and how the weights of its linears lie.

| weights      | layout                                            | activations          |
|--------------|---------------------------------------------------|----------------------|
| float        | as the activations                                | as they are          |
| int8         | blocks of inputs, one scale each                  | as they are          |
| int4         | the same, fitted by GPTQ                          | as they are          |
| int8-channel | one scale an output channel                       | as they are          |
| w8a8         | int8, one scale an output channel                 | int8, static scales  |
| w8a8-dynamic | the same; lm_head as in int8                      | int8, token's scales |
| w8a8-tensor  | int8, one scale an output channel                 | int8, scale of all   |
| fp8          | float8 e4m3, one scale an output channel          | float8, static scale |

On `cpu` the kernel rounds the inputs of int8 and int4 to 8 bits too, in the same blocks. There the
residual stream is rotated before anything is rounded (`hadamard.py`), which is what lets blocks be
large.

TensorRT's fused attention knows no fp32, so `tensorrt` has none. TensorRT 10.3 reads opsets up to
20, in which int4 and scales for blocks do not exist, so `tensorrt-10.3` has neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from edge_mm_export.errors import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

BLOCK = 32  # inputs that share a scale, at least

Activations = Literal["FLOAT", "FLOAT16", "BFLOAT16"]  # members of onnx_ir.DataType
Weights = Literal[
    "float", "int8", "int4", "int8-channel", "w8a8", "w8a8-dynamic", "w8a8-tensor", "fp8"
]


class Precision(NamedTuple):
    """What flows between the linears of a decoder, and what their weights are stored as."""

    activations: Activations
    weights: Weights = "float"
    block: int = BLOCK  # inputs that share a scale, at most: see `block_of`

    def block_of(self, linear: str, columns: int) -> int:
        """Of so many inputs of a linear, by name, how many share a scale: `block`, or its half...

        The largest that adds at most an eighth of zeros: none to lm_head, whose digits choose words
        and which is as fast in blocks of 64.
        """
        block, padded = self.block, 0 if linear == "lm_head" else columns // 8
        while block > BLOCK and -columns % block > padded:
            block //= 2
        return block

    @property
    def bits(self) -> int:
        """Of a weight in blocks; those of w8a8-dynamic are lm_head's."""
        return 4 if self.weights == "int4" else 8

    @property
    def dtype(self) -> ir.DataType:
        """Of what flows."""
        import onnx_ir as ir  # a command's --help does without

        return ir.DataType[self.activations]

    @property
    def halves(self) -> bool:
        """Whether what flows is of 16 bits."""
        return self.activations != "FLOAT"

    @property
    def table(self) -> Activations:
        """What the token table is stored as, but where it is rotated: then it is int8."""
        exact = self.halves or self.weights == "float"
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
        return not self.halves and self.weights != "float"

    @property
    def is_calibrated(self) -> bool:
        """Whether quantising needs frames: to measure activations, or to fit weights by GPTQ."""
        return self.needs_scales or self.weights == "int4"


PRECISIONS: dict[str, dict[str, Precision]] = {
    "cpu": {
        "int8": Precision("FLOAT", "int8", block=128),
        "fp32": Precision("FLOAT"),
        "int4": Precision("FLOAT", "int4", block=64),
        "w8a8": Precision("FLOAT", "w8a8-dynamic", block=128),
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
