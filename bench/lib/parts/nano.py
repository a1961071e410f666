"""Part `nano`: the shipped model, frame in to parsed answer out, beside the same model in torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from bench.lib.bars import NEW_FRAME, SECOND
from bench.lib.making import command, made, made_bundle
from bench.lib.results import Work
from bench.lib.run import OURS, Engine, Part
from bench.lib.workers import Worker

CHECKPOINT = Path(__file__).parents[3] / "models" / "nano"
FOLDER = Path("data/bench/nano")
TORCH = "torch fp32"
STREAM_S, JUDGED = 60, 8
WORKS = (
    Work(NEW_FRAME, {"new_frame": 1}),
    Work(SECOND, {"second": 1}),
    Work("five questions about a frame", {"conversation": 5}),
)


def part(threads: int) -> Part:
    """Both from this repository; torch is that of the checkpoint's own session."""
    return Part(
        name="nano",
        engines=[
            Engine(f"{OURS} default bundle", OURS, "int8", _command("cpu", "default", threads)),
            Engine(
                f"{OURS} default bundle, OpenVINO",
                OURS,
                "int8",
                _command("openvino", "default", threads),
            ),
            Engine(f"{OURS} w8a8-tensor", OURS, "w8a8-tensor", _w8a8("cpu", threads)),
            Engine(
                f"{OURS} w8a8-tensor, OpenVINO",
                OURS,
                "w8a8-tensor",
                _w8a8("openvino", threads),
            ),
            Engine(TORCH, "torch", "fp32", _command("torch", str(CHECKPOINT), threads)),
        ],
        works=WORKS,
        rounds=20,
        first={"new_frame": 1},
        judge=judge,
        starts=3,
        more=stream,
    )


def judge(workers: Mapping[str, Worker]) -> dict[str, tuple[str, float]]:
    """Answers to questions about shipped frames, as torch gives them."""
    said = {name: worker.ask({"answers": JUDGED}) for name, worker in workers.items()}
    expected = said.get(TORCH)
    if expected is None:
        return {}
    return {
        name: (
            f"{(same := sum(a == b for a, b in zip(answers, expected, strict=True)))}"
            f"/{len(expected)} answers as torch",
            float(same),
        )
        for name, answers in said.items()
    }


def stream(workers: Mapping[str, Worker]) -> list[str]:
    """A minute of 30 frames a second, one engine after the other."""
    notes = ["Its accuracy on labelled frames is what bench/accuracy.py prints."]
    for name, worker in workers.items():
        rate, middle, late = worker.ask({"stream": STREAM_S})
        notes.append(
            f"{STREAM_S} s of 30 frames a second, {name}: {rate:.1f} answers a second, camera to "
            f"answer p50 {middle:.0f} ms, p95 {late:.0f} ms"
        )
    return notes


def _command(kind: str, name: str | Path, threads: int) -> Callable[[], list[str]]:
    return lambda: command(sys.executable, "nano.py", kind, name, threads)


def _w8a8(device: str, threads: int) -> Callable[[], list[str]]:
    """The checkpoint with 8-bit products in its linears, exported and verified on the first run."""

    def prepare() -> list[str]:
        weights = CHECKPOINT / "model.safetensors"
        bundle = made_bundle(FOLDER / "bundle-w8a8-tensor", _export, weights)
        return _command(device, bundle, threads)()

    return prepare


def _export(out: Path) -> None:
    """Verified on the shipped frames; its tower is measured on rendered ones."""
    from edge_mm.data.tabletop.write import make_dataset
    from edge_mm.demo.questions import shipped_frames
    from edge_mm_export.export import export_checkpoint

    rendered = made(FOLDER / "rendered", partial(make_dataset, count=60, seed=2, split="val"))
    export_checkpoint(
        CHECKPOINT,
        out,
        frames=shipped_frames(),
        calibration=rendered,
        precision="w8a8-tensor",
    )
