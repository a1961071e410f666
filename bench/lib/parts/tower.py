"""Part `tower`: SigLIP-B/16 at 224 x 224 with random weights, one picture at a time.

Random weights take the time of real ones, but have none of their outliers: a cosine here says that
a graph is the same tower, not what 8 bits cost a trained one.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.lib.limits import Precision
from bench.lib.making import command, made, run
from bench.lib.models import VIT_B_16
from bench.lib.parts.pictures import SEED, SIDE, shipped_pictures
from bench.lib.results import Load, Work
from bench.lib.run import OURS, Engine, Part
from bench.lib.workers import Worker
from edge_mm_runtime.agreement import cosine

FOLDER = Path("data/bench/tower")
JUDGED = 4  # pictures that no engine is calibrated on
TIMED = ("fp32", "int8", "w8a8")
SCRIPT = "towers.py"


def part(threads: int) -> Part:
    """Makes the tower on the first run."""
    made(FOLDER / "siglip", _write_siglip)
    made(FOLDER / "pixels.npy", _write_pixels)
    made(FOLDER / "exact.npy", _write_exact)
    return Part(
        name="tower",
        engines=[*_ours(threads), *_peers(threads)],
        works=[Work("a picture", {"vision": 1}, load=_load)],
        rounds=15,
        first={"vision": 1},
        judge=judge,
        more=lambda workers: [
            "Weights are random: the cosines say that it is the same tower, not what 8 bits cost "
            "a trained one."
        ],
    )


def judge(workers: Mapping[str, Worker]) -> dict[str, tuple[str, float]]:
    """Cosine of the features of shipped pictures with transformers fp32."""
    exact = np.load(FOLDER / "exact.npy")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "features.npy"
        for name, worker in workers.items():
            worker.ask({"features": str(path), "pictures": JUDGED})
            same = cosine(np.load(path), exact)
            found[name] = (f"cosine {same:.5f}", same)
    return found


def _ours(threads: int) -> list[Engine]:
    from edge_mm_export.precision import PRECISIONS

    def prepare(precision: str, kind: str = "edge-mm") -> Callable[[], list[str]]:
        def write() -> list[str]:
            return _worker(kind, _ours_graph(precision), threads)

        return write

    return [
        *(
            Engine(f"{OURS} {precision}", OURS, precision, prepare(precision))
            for precision in TIMED
            if precision in PRECISIONS["cpu"]
        ),
        *(
            Engine(
                f"{OURS} {precision}, OpenVINO",
                OURS,
                precision,
                prepare(precision, "edge-mm-openvino"),
            )
            for precision in ("int8", "w8a8")
        ),
    ]


def _peers(threads: int) -> list[Engine]:
    from bench.lib.environments import environment

    def torch(dtype: str) -> list[str]:
        return _worker(f"torch-{dtype}", FOLDER / "siglip", threads, environment("transformers"))

    def openvino(kind: str) -> list[str]:
        model = made(FOLDER / "exact.onnx", _write_onnx)
        if kind == "int8":
            model = made(FOLDER / "openvino-int8", _quantise_by_nncf)
        return _worker(f"openvino-{kind}", model, threads, environment("openvino"))

    def dynamic() -> list[str]:
        model = made(FOLDER / "onnxruntime-int8.onnx", _quantise_dynamically)
        return _worker("onnxruntime", model, threads)

    return [
        Engine("transformers fp32", "transformers", "fp32", lambda: torch("float32")),
        Engine("transformers bf16", "transformers", "bf16", lambda: torch("bfloat16")),
        Engine("OpenVINO bf16", "OpenVINO", "bf16", lambda: openvino("bf16")),
        Engine("OpenVINO int8 (NNCF)", "OpenVINO", "int8", lambda: openvino("int8")),
        Engine("onnxruntime dynamic int8", "onnxruntime", "int8", dynamic),
    ]


def _worker(kind: str, model: Path, threads: int, python: Path | None = None) -> list[str]:
    pixels = FOLDER / "pixels.npy"
    return command(python or sys.executable, SCRIPT, kind, model, pixels, threads)


def _load(stored: Precision) -> Load:
    return Load(VIT_B_16.weights * stored.linear, VIT_B_16.operations)


def siglip_config() -> Any:
    """SigLIP-B/16 at 224 without the pooling head, which no decoder reads."""
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=SIDE,
        patch_size=16,
        vision_use_head=False,
    )


def _write_siglip(out: Path) -> None:
    import torch
    from transformers import SiglipVisionModel

    torch.manual_seed(SEED)
    SiglipVisionModel(siglip_config()).save_pretrained(out)


def _tower() -> Any:
    """pixel_values [1, 3, 224, 224] -> (features [1, 196, 768],)"""
    from torch import Tensor, nn
    from transformers import SiglipVisionModel

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.siglip = SiglipVisionModel.from_pretrained(FOLDER / "siglip").eval()

        def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
            return (self.siglip(pixel_values=pixel_values).last_hidden_state,)

    return Features()


def _write_pixels(out: Path) -> None:
    """Shipped pictures [N, 3, 224, 224] as SigLIP reads them: -1 to 1."""
    pixels = shipped_pictures().transpose(0, 3, 1, 2) / np.float32(127.5) - 1
    with out.open("wb") as file:
        np.save(file, pixels.astype(np.float32))


def _write_exact(out: Path) -> None:
    import torch

    tower, pixels = _tower(), torch.from_numpy(np.load(FOLDER / "pixels.npy")[:JUDGED])
    with torch.no_grad(), out.open("wb") as file:
        np.save(file, torch.cat([tower(one[None])[0] for one in pixels]).numpy())


@cache
def _ours_graph(precision: str) -> Path:
    """As `edge-mm export` stores a tower beside a decoder of that precision; w8a8 measured."""
    from edge_mm_export.precision import find_precision
    from edge_mm_export.storage import save_graph
    from edge_mm_export.vision import has_int8_tower, stored_vision
    from edge_mm_export.vision_int8 import measured_int8

    _, stored = find_precision("cpu", precision)
    tower = _traced()
    if has_int8_tower(stored):
        others = np.load(FOLDER / "pixels.npy")[JUDGED:]
        with tempfile.TemporaryDirectory() as scratch:
            tower = measured_int8(tower, (pixels[None] for pixels in others), Path(scratch))
    path = FOLDER / f"ours-{precision}.onnx"
    save_graph(stored_vision(tower, stored), path)
    return path


@cache
def _traced() -> Any:
    """The fp32 graph, an ir.Model, that each precision is made of."""
    from edge_mm_export.vision import trace_vision

    return trace_vision(_tower(), width=SIDE, height=SIDE, box_head=False)


def _write_onnx(out: Path) -> None:
    """fp32 in operators that every engine reads."""
    import onnx_ir as ir

    from edge_mm_export.vision import trace_vision

    tower = _tower()
    ir.save(
        trace_vision(tower, width=SIDE, height=SIDE, box_head=False, target="tensorrt-10.3"), out
    )


def _quantise_by_nncf(out: Path) -> None:
    from bench.lib.environments import environment

    model = made(FOLDER / "exact.onnx", _write_onnx)
    python = environment("openvino-exporter")
    run(command(python, "openvino_quantise.py", model, FOLDER / "pixels.npy", JUDGED, out))


def _quantise_dynamically(out: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        made(FOLDER / "exact.onnx", _write_onnx),
        out,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )
