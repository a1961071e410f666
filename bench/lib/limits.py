"""How many bytes and operations a model takes, and the least time that a board needs for them.

The limit of a piece of work is the longer of two times: its bytes over the memory's bandwidth, its
operations over the peak of the arithmetic it uses (the roofline, Williams et al. 2009). A product
and its addition are two operations. Norms, biases, activations and RoPE are left out: under 1 %.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Math = Literal["fp32", "bf16", "fp16", "int8"]


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """Peaks are dense and of the GPU alone (of both cores where there is none), in TOPS."""

    name: str
    family: Literal["Orin", "Thor", "CPU"]
    memory_gb: int
    bandwidth_gb_s: float
    peak: dict[Math, float]
    advertised: str


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a stored weight, its share of the scales included, and the arithmetic."""

    name: str
    linear: float
    head: float
    table: float = 2  # of the embedding; 0 where the head's copy serves for both
    cache: float = 2
    math: Math = "fp16"


class Decoder(msgspec.Struct, frozen=True):
    """A language model with grouped-query attention and a gated MLP."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool = True

    @property
    def linear_weights(self) -> int:
        """Of all layers: queries, keys and values, output, gate, up and down."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        return self.vocab * self.hidden

    @property
    def products(self) -> int:
        """Matrix products of one pass, with queries, keys and values packed, and gate and up."""
        return 4 * self.layers + 1


class Conv(msgspec.Struct, frozen=True):
    """A convolution that gives a square of `side` x `side`."""

    side: int
    inputs: int
    outputs: int
    kernel: int = 1
    groups: int = 1

    @property
    def weights(self) -> int:
        return self.inputs // self.groups * self.outputs * self.kernel**2

    @property
    def operations(self) -> int:
        return 2 * self.weights * self.side**2


class Linear(msgspec.Struct, frozen=True):
    """[rows, inputs] -> [rows, outputs]."""

    rows: int
    inputs: int
    outputs: int

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def operations(self) -> int:
        return 2 * self.rows * self.weights


class Encoder(msgspec.Struct, frozen=True):
    """Transformer layers in which every token sees all; `matrices` of the MLP: 3 if it is gated."""

    layers: int
    hidden: int
    intermediate: int
    tokens: int
    matrices: int = 2

    @property
    def weights(self) -> int:
        mlp = self.matrices * self.hidden * self.intermediate
        return self.layers * (4 * self.hidden**2 + mlp)

    @property
    def operations(self) -> int:
        attention = 4 * self.layers * self.hidden * self.tokens**2
        return 2 * self.tokens * self.weights + attention


class Vision(msgspec.Struct, frozen=True):
    """All from pixels to the decoder's rows; `kind`: where most of the operations are."""

    encoder: Encoder
    convs: tuple[Conv, ...] = ()
    linears: tuple[Linear, ...] = ()
    kind: Literal["transformer", "convolutions"] = "transformer"

    @property
    def weights(self) -> int:
        return sum(part.weights for part in (self.encoder, *self.convs, *self.linears))

    @property
    def operations(self) -> int:
        return sum(part.operations for part in (self.encoder, *self.convs, *self.linears))

    @property
    def products(self) -> int:
        return 4 * self.encoder.layers + len(self.convs) + len(self.linears)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is asked: a picture and `text` tokens, later `question` further tokens."""

    name: str
    vision: Vision
    decoder: Decoder
    precision: Precision
    picture: str
    image_tokens: int
    text: int
    question: int
    context: int
    """Tokens that the cache has room for."""

    @property
    def prompt(self) -> int:
        return self.image_tokens + self.text

    @property
    def weights(self) -> int:
        tables = self.decoder.head_weights * (1 if self.decoder.tied else 2)
        return self.vision.weights + self.decoder.linear_weights + tables


def weight_bytes(decoder: Decoder, precision: Precision) -> float:
    """What every pass reads: the layers and the head; of the embedding it reads a few rows."""
    layers = decoder.linear_weights * precision.linear
    return layers + decoder.head_weights * precision.head


def cache_bytes(decoder: Decoder, precision: Precision, tokens: int) -> float:
    """Keys and values of so many tokens in all layers."""
    return 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * precision.cache * tokens


def pass_bytes(decoder: Decoder, precision: Precision, past: int) -> float:
    """What one pass over new tokens reads when `past` tokens are in the cache."""
    return weight_bytes(decoder, precision) + cache_bytes(decoder, precision, past)


def pass_operations(decoder: Decoder, tokens: int, past: int = 0) -> int:
    """Causal attention over past and new tokens; the head for the last position only."""
    seen = tokens * past + tokens * (tokens + 1) // 2
    attention = 4 * decoder.layers * decoder.heads * decoder.head_dim * seen
    return 2 * tokens * decoder.linear_weights + attention + 2 * decoder.head_weights


def memory_bytes(
    vision: Vision, decoder: Decoder, precision: Precision, context: int, runtime: float
) -> float:
    """Weights (of the picture in fp16), a full cache, and what the runtime itself takes."""
    tables = decoder.head_weights * precision.table
    read = pass_bytes(decoder, precision, context)
    return runtime + 2 * vision.weights + read + tables


def limit_s(read: float, operations: float, board: Board, math: Math) -> float:
    """Seconds, at full bandwidth and full peak."""
    return max(read / (board.bandwidth_gb_s * 1e9), operations / (board.peak[math] * 1e12))
