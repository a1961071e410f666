"""From a checkpoint to a bundle that the runtime answers from, and every way to be refused."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from tokenizers import Tokenizer

import edge_mm_export.checkpoint as checkpoint_module
import edge_mm_export.export as export_module
from edge_mm.cli import main as cli
from edge_mm.model.checkpoint import load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_export.checkpoint import EdgeMMWeights, decoder_spec
from edge_mm_export.command import main as command
from edge_mm_export.errors import ExportError, UnsupportedError, VerificationError
from edge_mm_export.export import export_checkpoint
from edge_mm_export.hessians import gptq_weights, read_passages
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.samples import read_samples
from edge_mm_export.verify import Gate, Verification
from edge_mm_runtime import Session
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.image import read_image

from .conftest import tiny_edge_mm, write_checkpoint

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
    assert stored["quantisation"] == "rounded to nearest"
    assert stored["fp32_islands"] == {"vision": [], "decoder": []}
    page = (exported / "report.html").read_text()
    assert "boxes within half a bin" in page and "data:image/jpeg;base64," in page


def test_nothing_but_the_bundle_is_left(exported: Path) -> None:
    assert [path.name for path in exported.parent.iterdir()] == ["tiny"]
    assert sorted(path.name for path in exported.iterdir()) == [
        "LICENSE",
        "bundle.json",
        "bundle.json.sha256",
        "chat_template.jinja",
        "decoder.cpu.onnx",
        "references",
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
    ("cpu", "w8a8"): ["fp32", "w8a8"],
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
    checkpoint: Path,
    frames: Path,
    others: Path,
    tmp_path: Path,
    target: str,
    precision: str | None,
) -> None:
    gate = Gate(logits_cosine=LOWEST[precision], same_answers=0, mean_iou=0, within_half_bin=0)
    out = export_checkpoint(
        checkpoint,
        tmp_path / "out",
        frames=frames,
        target=target,
        precision=precision,
        calibration=others if precision in ("int4", "w8a8") else None,
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


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.usefixtures("quick")
def test_int4_is_fitted_to_other_frames(
    checkpoint: Path, edge_mm: EdgeMM, frames: Path, others: Path, tmp_path: Path, target: str
) -> None:
    """The scales in the graph are those that GPTQ finds, in the type that the graph computes in."""
    options: dict[str, Any] = {"frames": frames, "target": target, "precision": "int4"}
    gate = Gate(logits_cosine=0.8, same_answers=0, mean_iou=0, within_half_bin=0)
    out = export_checkpoint(checkpoint, tmp_path / "out", **options, gate=gate, calibration=others)
    manifest = load_bundle(out).manifest
    assert manifest.verification["quantisation"] == "GPTQ on 6 questions of others"
    stored = PRECISIONS[target]["int4"]
    passages = read_passages(edge_mm, checkpoint, read_samples(others))
    spec = decoder_spec(edge_mm)
    fitted = gptq_weights(edge_mm, passages, spec, EdgeMMWeights(edge_mm), stored)
    constants = ir.load(out / manifest.graphs[target].decoder).graph.initializers
    for name, weight in fitted.items():
        scales = constants[f"{name}.scales"].const_value.numpy()
        assert scales.dtype == (np.float32 if target == "cpu" else np.float16)
        expected = weight.scales if target == "cpu" else weight.scales.T
        if target == "cpu" and name.endswith(".qkv"):  # queries carry the scale of scores
            expected[: spec.heads * spec.head_dim] *= np.float32(spec.head_dim**-0.5)
        np.testing.assert_array_equal(scales, expected)
    for wrong, named in ((None, "--calibration-data DIR"), (frames, "flatter")):
        with pytest.raises(ExportError, match=named):
            export_checkpoint(checkpoint, tmp_path / "no", **options, calibration=wrong)


@pytest.mark.parametrize(
    ("largest", "figure"), [(-20.0, "logits_cosine"), (3e38, "values that are not finite")]
)
@pytest.mark.usefixtures("quick")
def test_a_drifted_layer_is_named_and_nothing_is_written(
    largest: float,
    figure: str,
    checkpoint: Path,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    build = checkpoint_module.build_decoder

    def wrong(spec: Any, weights: Mapping[str, np.ndarray], **options: str) -> ir.Model:
        name = "model.layers.1.self_attn.o_proj.weight"
        weight = weights[name] / np.abs(weights[name]).max() * np.float32(largest)
        return build(spec, {**weights, name: weight}, **options)

    monkeypatch.setattr(checkpoint_module, "build_decoder", wrong)
    arguments = [str(checkpoint), "-o", str(tmp_path / "out"), "--verify-data", str(frames)]
    assert cli(["export", *arguments]) == 1
    message = capsys.readouterr().err
    assert figure in message and "decoder residual.1" in message
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


@pytest.mark.usefixtures("quick")
def test_fp8_below_its_gate_is_refused_though_nothing_can_be_shown(
    checkpoint: Path, frames: Path, others: Path, tmp_path: Path
) -> None:
    with pytest.raises(VerificationError, match=r"tensorrt fp8 graphs.*first module.*not known"):
        export_checkpoint(
            checkpoint,
            tmp_path / "out",
            frames=frames,
            target="tensorrt",
            precision="fp8",
            calibration=others,
            gate=Gate(logits_cosine=0.99999, same_answers=0, mean_iou=0, within_half_bin=0),
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


@pytest.mark.usefixtures("quick", "small_files")
def test_a_disk_that_is_full_is_left_as_it_was(
    checkpoint: Path, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli(["export", str(checkpoint), "-o", str(out), "--verify-data", str(frames)]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert message.startswith(f"error: {out} cannot be written: File too large")
    assert list(tmp_path.iterdir()) == []


def broken(checkpoint: Path, folder: Path) -> dict[str, tuple[Path, str]]:
    """By what is wrong with it: a checkpoint, and what the message must name."""
    bad = {
        name: Path(shutil.copytree(checkpoint, folder / name))
        for name in ("cut", "wordless", "other", "tagless", "pickled", "not-a-number")
    }
    weights = checkpoint / "model.safetensors"
    (bad["cut"] / weights.name).write_bytes(weights.read_bytes()[:1000])
    (bad["wordless"] / "tokenizer.json").write_text("{}")
    tokenizer = (checkpoint / "tokenizer.json").read_text()
    (bad["tagless"] / "tokenizer.json").write_text(tokenizer.replace("<loc003>", "<place3>"))
    larger = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    larger.add_tokens([f"word{number}" for number in range(500)])
    larger.save(str(bad["other"] / "tokenizer.json"))
    (bad["pickled"] / weights.name).rename(bad["pickled"] / "pytorch_model.bin")
    model = copy.deepcopy(load_model(checkpoint))
    model.lm.model.norm.weight.data[0] = torch.nan
    write_checkpoint(bad["not-a-number"], model)
    file = folder / "model.bin"
    file.touch()
    return {
        "none": (folder / "none", "config.json"),
        "cut": (bad["cut"], "model.safetensors is damaged"),
        "wordless": (bad["wordless"], "tokenizer.json"),
        "other": (bad["other"], "the model only 420"),
        "tagless": (bad["tagless"], "no special token <loc003>"),
        "pickled": (bad["pickled"], "pytorch_model.bin is a pickle"),
        "not-a-number": (bad["not-a-number"], "lm.model.norm.weight"),
        "file": (file, "is a file"),
    }


@pytest.mark.usefixtures("quick")
def test_bad_input_is_one_line_and_exit_code_2(
    checkpoint: Path,
    frames: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(source: Path, out: Path, *options: str) -> str:
        capsys.readouterr()
        common = ["--verify-data", str(frames)]
        assert cli(["export", str(source), "-o", str(out), *common, *options]) == 2
        *before, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith("error: ") and not any("error" in line for line in before)
        assert list(tmp_path.iterdir()) == []
        return last

    out = tmp_path / "out"
    for source, named in broken(checkpoint, tmp_path_factory.mktemp("broken")).values():
        assert named in refused(source, out)
    assert "/proc/out cannot be written" in refused(checkpoint, Path("/proc/out"))
    assert "no precision 'fp8'" in refused(checkpoint, out, "--precision", "fp8")
    assert "--calibration-data" in refused(checkpoint, out, "--precision", "int4")


def test_boxes_from_tokens_need_no_head(frames: Path, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "tokens", tiny_edge_mm("tokens"))
    out = export_checkpoint(source, tmp_path / "out", frames=frames, gate=LOOSE)
    outputs = [value.name for value in ir.load(out / "decoder.cpu.onnx").graph.outputs]
    assert "region_query" not in outputs
    with Session(out, threads=1) as session:
        answer = session.ask(read_image(frames / "a.png"), "find the cup", mode="locate")
    assert answer.found is not None
