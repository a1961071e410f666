"""From a checkpoint to a bundle that the runtime answers from, and every way to be refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import edge_mm_export.bundle as bundle_module
import edge_mm_export.export as export_module
from edge_mm.cli import main as cli
from edge_mm_export.command import main as command
from edge_mm_export.errors import ExportError, UnsupportedError, VerificationError
from edge_mm_export.export import export_checkpoint
from edge_mm_export.verify import Gate, Verification
from edge_mm_runtime import Session
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.image import read_image

LOOSE = Gate(logits_cosine=0.9, same_answers=0, mean_iou=0, within_half_bin=0)  # random weights


@pytest.fixture(scope="module")
def exported(checkpoint: Path, frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "tiny"
    return export_checkpoint(checkpoint, out, frames=frames, gate=LOOSE)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, traced: ir.Model) -> None:
    """Exports without tracing the vision graph again."""
    monkeypatch.setattr(export_module, "trace_vision", lambda *args, **options: traced)


def test_the_runtime_answers_from_the_bundle(exported: Path, frames: Path) -> None:
    manifest = load_bundle(exported).manifest
    assert (manifest.name, manifest.licence, manifest.prompt.image_token_count) == (
        "tiny",
        "Apache-2.0",
        4,
    )
    assert manifest.graphs["cpu"].precision == "int8"
    with Session(exported, threads=1) as session:
        answer = session.ask(read_image(frames / "a.png"), "find the cup", mode="locate")
    assert answer.found is not None


def test_the_bundle_keeps_its_verification(exported: Path) -> None:
    stored = load_bundle(exported).manifest.verification
    verification = msgspec.convert(stored, Verification)
    exact, int8 = verification.steps
    assert (exact.step, int8.step, verification.questions) == ("fp32", "int8", 6)
    assert exact.boxes > 0
    assert exact.logits_cosine_min > 0.99999 and exact.same_answers == 1.0
    assert exact.within_half_bin == 1.0
    assert 0.99 < int8.logits_cosine < 1.0
    page = (exported / "report.html").read_text()
    assert "boxes within half a bin" in page and "data:image/jpeg;base64," in page


def test_nothing_but_the_bundle_is_left(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["tiny"]
    assert sorted(path.name for path in exported.iterdir()) == [
        "LICENSE",
        "bundle.json",
        "chat_template.jinja",
        "decoder.cpu.onnx",
        "report.html",
        "tokenizer.json",
        "vision.cpu.onnx",
    ]


@pytest.mark.usefixtures("quick")
def test_fp32_to_an_empty_folder_by_the_command(
    checkpoint: Path, frames: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = [str(checkpoint), "-o", str(out), "--precision", "fp32"]
    assert command([*arguments, "--verify-data", str(frames)]) == 0
    assert [step["step"] for step in load_bundle(out).manifest.verification["steps"]] == ["fp32"]


STEPS = {
    ("cpu", "int4"): ["fp32", "int4"],
    ("cuda", None): ["fp32", "cuda fp16"],
    ("tensorrt", "int8"): ["fp32", "tensorrt fp16", "tensorrt int8"],
    ("tensorrt", "bf16"): ["fp32", "tensorrt bf16"],
    ("tensorrt", "w8a8"): ["fp32", "tensorrt fp16", "tensorrt w8a8"],
    ("tensorrt-10.3", "fp16"): ["fp32", "tensorrt-10.3 fp16"],
}
LOWEST = {"int4": 0.8, "int8": 0.99, "w8a8": 0.97, "bf16": 0.999, None: 0.9999, "fp16": 0.9999}


@pytest.mark.parametrize(("target", "precision"), STEPS)
@pytest.mark.usefixtures("quick")
def test_every_target_passes_its_gate(
    checkpoint: Path, frames: Path, tmp_path: Path, target: str, precision: str | None
) -> None:
    gate = Gate(logits_cosine=LOWEST[precision], same_answers=0, mean_iou=0, within_half_bin=0)
    out = export_checkpoint(
        checkpoint,
        tmp_path / "out",
        frames=frames,
        target=target,
        precision=precision,
        calibration=frames if precision == "w8a8" else None,
        gate=gate,
    )
    manifest = load_bundle(out).manifest
    steps = manifest.verification["steps"]
    assert [step["step"] for step in steps] == STEPS[target, precision]
    assert all(step["logits_cosine"] < 1 for step in steps[1:])
    (graphs,) = manifest.graphs.values()
    assert list(manifest.graphs) == [target]
    assert graphs.precision == (precision or "fp16")
    for path in (graphs.vision, graphs.decoder):
        onnx.checker.check_model(str(out / path))
    vision = ir.load(out / graphs.vision).graph
    borders = {value.dtype for value in (*vision.inputs, *vision.outputs)}
    assert borders == {ir.DataType.FLOAT}
    inside = {value.dtype for node in vision for value in node.outputs if node.op_type == "Conv"}
    half = ir.DataType.BFLOAT16 if precision == "bf16" else ir.DataType.FLOAT16
    assert inside == {ir.DataType.FLOAT if target == "cpu" else half}


@pytest.mark.usefixtures("quick")
def test_the_node_of_the_vision_graph_that_drifted_is_named(
    checkpoint: Path,
    frames: Path,
    tmp_path: Path,
    traced: ir.Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Boxes that lose all their digits in fp16, and the islands that keep them."""
    model = traced.clone()
    last = next(v.producer() for v in model.graph.outputs if v.name == "region_boxes")
    assert last is not None
    value = boxes = last.inputs[0]
    many = ir.val("many", const_value=ir.tensor(np.array(1e4, np.float32), name="many"))
    many.type, many.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    model.graph.register_initializer(many)
    for operator in ("Add", "Sub"):
        node = ir.node(operator, [value, many], name=f"{operator} many")
        (value,) = node.outputs
        value.name, value.type, value.shape = operator, boxes.type, boxes.shape
        model.graph.insert_before(last, node)
    last.replace_input_with(0, value)
    monkeypatch.setattr(export_module, "trace_vision", lambda *args, **options: model)
    strict = Gate(logits_cosine=0, same_answers=0, mean_iou=0.9, within_half_bin=0.9)
    options: dict[str, Any] = {"frames": frames, "target": "cuda", "gate": strict}
    with pytest.raises(VerificationError, match=r"vision node Sub many \(Sub\)"):
        export_checkpoint(checkpoint, tmp_path / "out", **options)
    export_checkpoint(
        checkpoint, tmp_path / "out", fp32_islands=["Add many", "Sub many"], **options
    )


@pytest.mark.usefixtures("quick")
def test_a_drifted_layer_is_named_and_nothing_is_written(
    checkpoint: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build = bundle_module.build_decoder

    def broken(spec: Any, weights: Mapping[str, np.ndarray], **options: str) -> ir.Model:
        name = "model.layers.1.self_attn.o_proj.weight"
        return build(spec, {**weights, name: -20 * weights[name]}, **options)

    monkeypatch.setattr(bundle_module, "build_decoder", broken)
    arguments = [str(checkpoint), "-o", str(tmp_path / "out"), "--verify-data", str(frames)]
    assert cli(["export", *arguments]) == 1
    message = capsys.readouterr().err
    assert "logits_cosine" in message and "decoder residual.1" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_gate_out_of_reach_refuses(checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"int8.*--precision fp32"):
        export_checkpoint(
            checkpoint,
            tmp_path / "out",
            frames=frames,
            gate=Gate(logits_cosine=0.9999999, same_answers=0, mean_iou=0, within_half_bin=0),
        )
    assert list(tmp_path.iterdir()) == []


def test_bad_requests(checkpoint: Path, frames: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    with pytest.raises(ExportError, match="not an empty folder"):
        export_checkpoint(checkpoint, full, frames=frames)
    with pytest.raises(ExportError, match="no folder"):
        export_checkpoint(checkpoint, tmp_path / "no" / "out", frames=frames)
    with pytest.raises(UnsupportedError, match="'npu'"):
        export_checkpoint(checkpoint, tmp_path / "out", frames=frames, target="npu")
    with pytest.raises(UnsupportedError, match="'cpu' has no precision 'fp8'"):
        export_checkpoint(checkpoint, tmp_path / "out", frames=frames, precision="fp8")
    with pytest.raises(ExportError, match="--calibration-data DIR"):
        export_checkpoint(
            checkpoint, tmp_path / "out", frames=frames, target="tensorrt", precision="w8a8"
        )


@pytest.mark.usefixtures("quick")
def test_bad_input_is_one_line_and_exit_code_2(
    checkpoint: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    wordless = tmp_path / "wordless"
    shutil.copytree(checkpoint, wordless)
    (wordless / "tokenizer.json").write_text("{}")
    for source, named in (
        (tmp_path / "none", "config.json"),
        (broken, "model.safetensors"),
        (wordless, "tokenizer.json"),
    ):
        capsys.readouterr()
        code = cli(
            ["export", str(source), "-o", str(tmp_path / "out"), "--verify-data", str(frames)]
        )
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert code == 2 and last.startswith("error: ") and named in last
        assert not (tmp_path / "out").exists()


def test_boxes_from_tokens_need_no_head(frames: Path, tmp_path: Path) -> None:
    from .conftest import tiny_edge_mm, write_checkpoint

    source = write_checkpoint(tmp_path / "tokens", tiny_edge_mm("tokens"))
    out = export_checkpoint(source, tmp_path / "out", frames=frames, gate=LOOSE)
    outputs = [value.name for value in ir.load(out / "decoder.cpu.onnx").graph.outputs]
    assert "region_query" not in outputs
    with Session(out, threads=1) as session:
        answer = session.ask(read_image(frames / "a.png"), "find the cup", mode="locate")
    assert answer.found is not None
