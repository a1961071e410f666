"""Boards, and what others measured on them. The addresses are in docs/performance.md."""

from __future__ import annotations

import msgspec

from bench.lib.limits import Board, Decoder, Precision, Vision
from bench.lib.models import (
    AWQ,
    INT4,
    LLAMA_3B,
    LLAMA_8B,
    QWEN3_06B,
    QWEN3_4B,
    QWEN3_8B,
    QWEN3_17B,
    qwen3_vision,
)

ORIN_NANO = Board(
    name="Orin Nano 8 GB, 15 W",
    family="Orin",
    memory_gb=8,
    bandwidth_gb_s=68,
    peak={"fp16": 10, "int8": 20},
    advertised="40 TOPS int8 sparse",
)
ORIN_NANO_SUPER = Board(
    name="Orin Nano 8 GB, Super",
    family="Orin",
    memory_gb=8,
    bandwidth_gb_s=102,
    peak={"fp16": 17, "int8": 33},
    advertised="67 TOPS int8 sparse",
)
ORIN_NX = Board(
    name="Orin NX 16 GB, 25 W",
    family="Orin",
    memory_gb=16,
    bandwidth_gb_s=102.4,
    peak={"fp16": 15, "int8": 30},
    advertised="100 TOPS int8 sparse, 40 of them DLA",
)
ORIN_NX_SUPER = Board(
    name="Orin NX 16 GB, Super",
    family="Orin",
    memory_gb=16,
    bandwidth_gb_s=102.4,
    peak={"fp16": 19, "int8": 38},
    advertised="157 TOPS int8 sparse, 80 of them DLA",
)
AGX_ORIN = Board(
    name="AGX Orin 64 GB",
    family="Orin",
    memory_gb=64,
    bandwidth_gb_s=204.8,
    peak={"fp16": 42.5, "int8": 85},
    advertised="275 TOPS int8 sparse, 105 of them DLA",
)
THOR = Board(
    name="AGX Thor (T5000)",
    family="Thor",
    memory_gb=128,
    bandwidth_gb_s=273,
    peak={"fp16": 258, "int8": 517},
    advertised="2,070 TFLOPS fp4 sparse",
)
BOARDS = (ORIN_NANO, ORIN_NANO_SUPER, ORIN_NX, ORIN_NX_SUPER, AGX_ORIN, THOR)


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """One model with int4 weights on one board, measured by somebody else."""

    board: Board
    model: str
    decoder: Decoder
    tokens_per_s: float
    memory: float | None = None  # bytes, at its peak
    prefill: tuple[int, float] | None = None  # tokens, seconds
    vision: tuple[Vision, float] | None = None
    context: int = 2200  # Edge-LLM's --maxKVCacheCapacity
    precision: Precision = AWQ


# What decides the shares: the Orin NX's mode is not published, its times fit Super.
PUBLISHED = (
    Published(
        board=ORIN_NX_SUPER,
        model="Qwen3-0.6B",
        decoder=QWEN3_06B,
        tokens_per_s=117.4,
    ),
    Published(
        board=ORIN_NX_SUPER,
        model="Qwen3-VL-2B",
        decoder=QWEN3_17B,
        tokens_per_s=60.1,
        prefill=(292, 0.1031),
        vision=(qwen3_vision(265, 2048), 0.0821),
    ),
    Published(
        board=ORIN_NX_SUPER,
        model="Qwen3-VL-4B",
        decoder=QWEN3_4B,
        tokens_per_s=31.2,
        prefill=(292, 0.2446),
        vision=(qwen3_vision(265, 2560), 0.0837),
    ),
    Published(
        board=ORIN_NX_SUPER,
        model="Qwen3-8B",
        decoder=QWEN3_8B,
        tokens_per_s=19.0,
    ),
    Published(
        board=AGX_ORIN,
        model="Qwen3-0.6B",
        decoder=QWEN3_06B,
        tokens_per_s=186.4,
    ),
    Published(
        board=AGX_ORIN,
        model="Qwen3-VL-2B",
        decoder=QWEN3_17B,
        tokens_per_s=98.4,
        prefill=(292, 0.0500),
        vision=(qwen3_vision(265, 2048), 0.0390),
    ),
    Published(
        board=AGX_ORIN,
        model="Qwen3-VL-4B",
        decoder=QWEN3_4B,
        tokens_per_s=52.4,
        prefill=(292, 0.1237),
        vision=(qwen3_vision(265, 2560), 0.0393),
    ),
    Published(
        board=AGX_ORIN,
        model="Qwen3-8B",
        decoder=QWEN3_8B,
        tokens_per_s=32.5,
    ),
    Published(
        board=THOR,
        model="Qwen3-VL-4B",
        decoder=QWEN3_4B,
        tokens_per_s=79.0,
        prefill=(292, 0.0852),
        vision=(qwen3_vision(266, 2560), 0.0117),
    ),
    Published(
        board=THOR,
        model="Qwen3-8B",
        decoder=QWEN3_8B,
        tokens_per_s=49.3,
    ),
)

# What the prediction is checked with: Edge-LLM's rows for the Orin Nano, whose mode is not
# published and fits 15 W; Choi's in Super mode with the same engine; NVIDIA's with MLC.
CHECKS = (
    Published(board=ORIN_NANO, model="Qwen3-0.6B", decoder=QWEN3_06B, tokens_per_s=72.8),
    Published(
        board=ORIN_NANO,
        model="Qwen3-VL-2B",
        decoder=QWEN3_17B,
        tokens_per_s=36.9,
        memory=4380e6,
        prefill=(292, 0.1909),
        vision=(qwen3_vision(265, 2048), 0.1511),
    ),
    Published(
        board=ORIN_NANO_SUPER,
        model="Cosmos-Reason2-2B",
        decoder=QWEN3_17B,
        tokens_per_s=59.6,
        memory=4343 * 2**20,
        prefill=(512, 0.2111),
        vision=(qwen3_vision(494, 2048), 0.2093),
        context=1024,
    ),
    Published(
        board=ORIN_NANO_SUPER,
        model="Llama-3.2-3B",
        decoder=LLAMA_3B,
        tokens_per_s=43.07,
        precision=INT4,
    ),
    Published(
        board=ORIN_NANO_SUPER,
        model="Llama-3.1-8B",
        decoder=LLAMA_8B,
        tokens_per_s=19.14,
        precision=INT4,
    ),
)

# YOLOv8n at 640 x 640 in TensorRT fp16 on ORIN_NANO_SUPER.
YOLO_CONVOLUTIONS, YOLO_OPERATIONS, YOLO_S = 64, 8.7e9, 4.43e-3
