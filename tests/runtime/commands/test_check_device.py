"""`edge-mm check --device`: what it prints and its exit codes, with ONNX Runtime as the device.

What is compared and how is tested in tests/runtime/engines/test_compare.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from edge_mm.cli import main as cli
from edge_mm_runtime.bundle import Bundle, load_bundle, write_manifest
from edge_mm_runtime.commands.check import main
from edge_mm_runtime.engines import compare, locate
from edge_mm_runtime.engines.device import Gpu
from edge_mm_runtime.engines.manifest import Machine
from edge_mm_runtime.graphs import open_graph
from edge_mm_runtime.runner import Array, Arrays, Runner

FRAME = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
GATE = {"logits_cosine": 0.99, "same_answers": 0.95, "mean_iou": 0.95, "within_half_bin": 0.95}


@pytest.fixture
def bundle(spoken_bundle: Callable[..., Path]) -> Path:
    """A bundle with two references."""
    folder = spoken_bundle("<ref>red cup</ref><box>", point_at=6)
    kept = folder / "references"
    kept.mkdir()
    cv2.imwrite(str(kept / "00.png"), FRAME)
    questions = [
        {
            "picture": "00.png",
            "question": text,
            "type": "locate",
            "mode": "locate",
            "text": "red cup",
            "found": True,
            "objects": [],
            "top_ids": [1],
            "top_logits": [0.0],
            "ids": [1],
        }
        for text in ("find the red cup", "where is the cup")
    ]
    (kept / "references.json").write_text(
        json.dumps({"max_new_tokens": 32, "questions": questions})
    )
    manifest = load_bundle(folder).manifest
    write_manifest(folder, msgspec.structs.replace(manifest, verification={"gate": GATE}))
    return folder


class Device:
    """An engine of this machine: the bundle's own graph, wrong from a pass on."""

    graph_error: str | None = None

    def __init__(self, runner: Runner, wrong_from: int | None) -> None:
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._runner, self._wrong_from = runner, wrong_from
        self._passes = 0

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        outputs = self._runner.run(inputs)
        self._passes += 1
        if self._wrong_from is not None and self._passes > self._wrong_from:
            outputs["logits"] = outputs["logits"][:, ::-1].copy()
        return outputs

    def close(self) -> None:
        self._runner.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """engines(wrong_from): a machine with engines, whose decoder is wrong from this pass on."""

    def put(wrong_from: int | None = None) -> None:
        manifest = SimpleNamespace(
            machine=Machine("Orin", 87, "tensorrt", "10.3.0"), target="cpu", precision="fp16"
        )
        found = SimpleNamespace(folder=Path("engines/orin-sm87"), manifest=manifest)
        monkeypatch.setattr(compare, "find_engines", lambda bundle, target: found)

        def open_engine(bundle: Bundle, part: Any, target: str) -> Device:
            runner = open_graph(bundle, part, target, 1)
            return Device(runner, wrong_from if part == "decoder" else None)

        monkeypatch.setattr(compare, "open_engine", open_engine)

    return put


def test_people_read_a_line_for_each_step(
    bundle: Path, engines: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    engines()
    assert main([str(bundle), "--device"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "engines/orin-sm87: Orin (SM87), TensorRT 10.3.0, cpu fp16"
    assert lines[1] == "decoding: replayed from a CUDA graph"
    assert lines[2].startswith("2 questions, each step on the inputs of ONNX Runtime's CPU")
    rows = [line.split() for line in lines[3:]]
    assert rows[0] == ["step", "output", "passes", "cosine", "difference", "same", "id"]
    assert rows[1] == ["vision", "image_embeds", "1", "1.000000", "0"]  # one picture
    assert ["prefill", "logits", "2", "1.000000", "0", "2", "of", "2"] in rows
    assert ["decode", "2", "logits", "2", "1.000000", "0", "2", "of", "2"] in rows
    assert lines[-1].startswith("alone: same answers 1.0000, same tokens 1.0000, 2 boxes")


def test_where_they_part_is_told(
    bundle: Path,
    engines: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engines(wrong_from=2)
    monkeypatch.setattr(Device, "graph_error", "cudaGraphInstantiate failed")
    assert main([str(bundle), "--device"]) == 1
    told = capsys.readouterr().out
    assert "decoding: NO graph: cudaGraphInstantiate failed" in told
    assert "00.png, 'find the red cup': parts at decode 2 (logits)" in told
    assert "00.png, 'where is the cup': parts at prefill (logits)" in told
    assert "alone it chose another id at place 1 and said '!', ONNX Runtime 'red cup'" in told
    assert "FAILED: 00.png, 'find the red cup' parts at decode 2: logits has cosine" in told
    assert main([str(bundle), "--device", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert report["engines"]["machine"]["gpu"] == "Orin"
    assert report["questions"][0]["parts_at"]["step"] == "decode 2"
    steps = [reading["step"] for reading in report["questions"][0]["readings"]]
    assert steps[0] == "vision" and "decode 1" in steps


def test_programs_read_that_it_passed(
    bundle: Path, engines: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    engines()
    assert main([str(bundle), "--device", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["passed"], report["failures"]) == (True, [])
    assert report["figures"]["questions"] == 2
    assert report["engines"]["graph_error"] is None


def test_without_gpu_or_engine_it_is_one_line_and_exit_code_2(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def error() -> str:
        assert cli(["check", str(bundle), "--device"]) == 2
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    monkeypatch.setattr(locate, "find_gpu", lambda: None)
    assert "no usable NVIDIA GPU (libcuda.so.1) on this machine" in error()
    library = SimpleNamespace(flavour="tensorrt", version="10.3.0")
    monkeypatch.setattr(locate, "find_gpu", lambda: Gpu("Orin", 87, "12.6"))
    monkeypatch.setattr(locate, "choose_library", lambda gpu, capability: (library, 87))
    assert f"{bundle} has no TensorRT engines: run `edge-mm build {bundle}`" in error()


def test_a_bundle_without_references_has_nothing_to_compare(
    tiny_bundle: Path, engines: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    engines()
    assert cli(["check", str(tiny_bundle), "--device"]) == 2
    assert "has no references to ask about: export the bundle again" in capsys.readouterr().err
