"""A vision tower on one of several engines as a worker.

python bench/peers/towers.py KIND MODEL PIXELS.npy THREADS, then requests on standard input:

    {"vision": 1}                       -> ms of a new picture, pixels given
    {"features": PATH, "pictures": 4}   -> how many it wrote to PATH: features of the first pictures
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.lib.workers import serve

Tower = Callable[[np.ndarray], np.ndarray]
"""pixel_values f32 [1, 3, H, W] -> features f32 [1, T, D]"""


def ours(model: str, threads: int) -> Tower:
    """The runtime's runner, in its own settings."""
    from edge_mm_runtime.runner import OnnxRunner

    runner = OnnxRunner(Path(model), threads)
    return lambda pixels: runner.run({"pixel_values": pixels})["image_embeds"]


def ours_on_openvino(model: str, threads: int) -> Tower:
    """The runtime's runner of device openvino."""
    from edge_mm_runtime.openvino import OpenVinoRunner

    runner = OpenVinoRunner(Path(model), threads)
    return lambda pixels: runner.run({"pixel_values": pixels})["image_embeds"]


def onnxruntime_alone(model: str, threads: int) -> Tower:
    """ONNX Runtime in its own settings but for the threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {"pixel_values": pixels})[0]


def in_torch(folder: str, threads: int, dtype: str) -> Tower:
    """transformers' own class."""
    import torch
    from transformers import SiglipVisionModel

    torch.set_num_threads(threads)
    kind = getattr(torch, dtype)
    tower = SiglipVisionModel.from_pretrained(folder, dtype=kind).eval()

    def look(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            found = tower(pixel_values=torch.from_numpy(pixels).to(kind)).last_hidden_state
            return found.float().numpy()

    return look


def in_openvino(model: str, threads: int, kind: str) -> Tower:
    """OpenVINO for latency; `bf16`: what it computes in where the processor has it."""
    import openvino

    path = Path(model)
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if kind == "bf16":
        settings["INFERENCE_PRECISION_HINT"] = "bf16"
    compiled = openvino.Core().compile_model(
        path / "model.xml" if path.is_dir() else path, "CPU", settings
    )
    return lambda pixels: compiled(pixels)[0]


def open_tower(kind: str, model: str, threads: int) -> Tower:
    """By the first word of the command line."""
    if kind == "edge-mm":
        return ours(model, threads)
    if kind == "edge-mm-openvino":
        return ours_on_openvino(model, threads)
    if kind == "onnxruntime":
        return onnxruntime_alone(model, threads)
    engine, _, precision = kind.partition("-")
    return {"torch": in_torch, "openvino": in_openvino}[engine](model, threads, precision)


def main() -> None:
    kind, model, pixels, threads = sys.argv[1:]
    tower, pictures = open_tower(kind, model, int(threads)), np.load(pixels)
    seen = 0

    def answer(request: dict[str, Any]) -> Any:
        nonlocal seen
        match request:
            case {"vision": _}:
                picture = pictures[seen % len(pictures)][None]
                seen += 1
                started = time.perf_counter()
                tower(picture)
                return (time.perf_counter() - started) * 1e3
            case {"features": path, "pictures": count}:
                found = [np.array(tower(one[None])) for one in pictures[:count]]
                np.save(path, np.concatenate(found))
                return len(found)
        raise ValueError(f"no request of a tower: {request}")

    serve(answer)


if __name__ == "__main__":
    main()
