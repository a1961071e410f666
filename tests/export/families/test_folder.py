"""From a transformers folder to a bundle that answers as transformers' `generate` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_ir as ir
import pytest
import torch
from transformers import AutoTokenizer

import edge_mm_export.storage as storage
from edge_mm.cli import main as cli
from edge_mm_export.errors import UnsupportedError, VerificationError
from edge_mm_export.export import export_checkpoint
from edge_mm_export.families.vlm import load_vlm
from edge_mm_export.probe import ProbedSession
from edge_mm_export.samples import Sample
from edge_mm_export.verify import Gate
from edge_mm_export.vision_int8 import int8_linears, measured_int8
from edge_mm_runtime import Session
from edge_mm_runtime.agreement import cosine
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.codecs import open_codec
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import read_image
from edge_mm_runtime.runner import OnnxRunner

from ..conftest import kinds
from .folders import IMAGE_TOKEN, OTHERS, SPECIAL, VOCABULARY, write_folder
from .test_vlm import CONFIGS, INPUTS

LOOSE = Gate(logits_cosine=0.99, same_answers=0, mean_iou=0, within_half_bin=0)  # random weights
EXACT = Gate(logits_cosine=0.999999, same_answers=1, mean_iou=1, within_half_bin=1)
TEXT = "what is there?"
NEW_TOKENS = 16
FAMILIES = ("llava-1.5", "idefics3", "smolvlm", "internvl", "gemma3", "paligemma")
FAMILIES += ("qwen2-vl", "qwen2.5-vl", "qwen3-vl")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture with two questions."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(4)
    small = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "a.png"), cv2.resize(small, (80, 60)))
    questions = [{"text": TEXT}, {"text": "find the red cup", "mode": "locate"}]
    pictures = [{"file": "a.png", "questions": questions}]
    (folder / "questions.json").write_text(json.dumps({"pictures": pictures}))
    return folder


Exported = tuple[Path, Any]
"""A bundle, and the model in transformers' own class, fp32."""


@pytest.fixture(scope="module")
def exported(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """`exported(name)`: the fp32 bundle of a tiny folder, made once."""
    made: dict[str, Exported] = {}

    def export(name: str) -> Exported:
        if name not in made:
            folder = tmp_path_factory.mktemp("folders") / name
            model = write_folder(folder, name)
            out = folder.with_name(f"{name}-bundle")
            size = (64, 48) if "qwen" in name else None
            export_checkpoint(
                folder, out, frames=frames, precision="fp32", image_size=size, gate=EXACT
            )
            made[name] = out, model
        return made[name]

    return export


@torch.no_grad()
def generated(model: Any, bundle: Path, frame: np.ndarray) -> list[int]:
    """What transformers' `generate` answers, fed by the family's rules.

    Special tokens and ids without a token are barred, as they are in the runtime's words.
    """
    manifest = load_bundle(bundle).manifest
    tokenizer = AutoTokenizer.from_pretrained(bundle.with_name(model.config.name_or_path))
    prompt = tokenizer(manifest.prompt.render(TEXT), add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([prompt])
    image = tokens == tokenizer.convert_tokens_to_ids(manifest.prompt.image_token)
    pixels = torch.from_numpy(manifest.image.apply(frame))
    family = model.config.model_type
    inputs = INPUTS.get(family, lambda model, pixels: {"pixel_values": pixels})(model, pixels)
    if family.startswith("qwen"):
        inputs["mm_token_type_ids"] = image.int()
    if family in ("gemma3", "paligemma"):
        inputs["token_type_ids"] = image.int() if family == "gemma3" else torch.zeros_like(tokens)
    stop = list(manifest.stop_ids)
    barred = {*range(len(SPECIAL)), *range(len(tokenizer), VOCABULARY)} - {*stop}
    made = model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        **inputs,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        suppress_tokens=sorted(barred),
        eos_token_id=stop,
    )[0, len(prompt) :].tolist()
    return [token for token in made if token not in stop]


@pytest.mark.parametrize("name", FAMILIES)
def test_answers_are_those_of_generate(
    name: str, exported: Callable[..., Exported], frames: Path
) -> None:
    bundle, model = exported(name)
    model.config.name_or_path = name
    frame = read_image(frames / "a.png")
    expected = generated(model, bundle, frame)
    with ProbedSession(bundle) as session:
        trace = session.trace(Sample("a.png", frame, TEXT, "words"))
    assert len(expected) > 2
    found = list(trace.generated[:NEW_TOKENS])
    assert found == expected[: len(found)] and len(found) >= min(NEW_TOKENS, len(expected)) - 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_bundle_says_what_it_is(name: str, exported: Callable[..., Exported]) -> None:
    bundle, model = exported(name)
    manifest = load_bundle(bundle).manifest
    family = model.config.model_type
    assert (manifest.name, manifest.family) == (name, family)
    assert manifest.prompt.image_token == IMAGE_TOKEN.get(family, "<image>")
    assert manifest.stop_ids == (2,)
    codec = "none" if family in ("llava", "idefics3", "smolvlm", "gemma3") else family
    assert manifest.grounding.codec == codec
    step = manifest.verification["steps"][0]
    assert step["logits_difference_max"] < 1e-4 and step["same_tokens"] == 1
    assert manifest.decoder.context == 512
    assert (manifest.decoder.rope_grid == (3, 4)) == name.startswith("qwen")
    assert manifest.decoder.image_size == (3 * 64 if name == "qwen3-vl" else None)
    assert manifest.decoder.prefix_reuse == (family != "paligemma")


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen2-vl", "qwen3-vl", "internvl", "paligemma"])
def test_places_are_read_by_the_familys_codec(
    name: str, exported: Callable[..., Exported], frames: Path
) -> None:
    bundle, _ = exported(name)
    grounding = load_bundle(bundle).manifest.grounding
    with Session(bundle, threads=1) as session:
        answer = session.ask(
            read_image(frames / "a.png"), "red cup", mode="locate", max_new_tokens=250
        )
    if answer.finish_reason == "stop":
        assert answer.found is bool(answer.objects)
    for item in answer.objects:
        assert item.box_xyxy is not None and item.box_xyxy[2] <= 80 and item.box_xyxy[3] <= 60
    assert "box" in open_codec(grounding).speaks


def test_a_model_without_places_answers_in_words_only(
    exported: Callable[..., Exported], frames: Path
) -> None:
    bundle, _ = exported("llava-1.5")
    frame = read_image(frames / "a.png")
    with Session(bundle, threads=1) as session:
        with pytest.raises(UsageError, match="not taught to name places"):
            session.ask(frame, "find the cup", mode="locate")
        assert session.ask(frame, "the cup?", max_new_tokens=3).objects == ()


def test_the_report_says_what_was_chosen(exported: Callable[..., Exported]) -> None:
    bundle, _ = exported("llava-1.5")
    notes = load_bundle(bundle).manifest.verification["notes"]
    assert "cuts the longer sides" in notes[0]
    assert "cuts the longer sides" in (bundle / "report.html").read_text()


def test_int8_and_16_bit_weights_in_files_of_their_own(
    tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default precision of a 16-bit checkpoint, its graphs too large for one file."""
    monkeypatch.setattr(storage, "LARGEST_FILE", 20_000)
    write_folder(tmp_path / "model", "llava-siglip", torch.bfloat16)
    out = export_checkpoint(tmp_path / "model", tmp_path / "out", frames=frames, gate=LOOSE)
    manifest = load_bundle(out).manifest
    exact, int8 = manifest.verification["steps"]
    assert exact["logits_difference_max"] < 1e-4 and exact["same_tokens"] == 1
    assert 0.99 < int8["logits_cosine"] < 1
    listed = {entry.path for entry in manifest.files}
    assert {"decoder.cpu.onnx.data", "vision.cpu.onnx.data"} <= listed
    decoder = ir.load(out / "decoder.cpu.onnx")
    assert (out / "decoder.cpu.onnx").stat().st_size < (
        out / "decoder.cpu.onnx.data"
    ).stat().st_size
    operators = [node.op_type for node in decoder.graph]
    assert operators.count("MatMulNBits") == 3 * 4 + 1
    with Session(out, threads=1) as session:
        assert session.ask(read_image(frames / "a.png"), TEXT, max_new_tokens=4).text


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
def test_a_tower_over_rows_is_one_of_integers_too(
    name: str, exported: Callable[..., Exported], tmp_path: Path
) -> None:
    """torch.onnx.export writes its linears as Gemm."""
    bundle, _ = exported(name)
    exact = ir.load(load_bundle(bundle).path("vision.cpu.onnx"))
    linears = kinds(exact)["Gemm"]
    frame = np.random.default_rng(0).standard_normal((1, 3, 48, 64)).astype(np.float32)
    measured = measured_int8(exact, [frame], tmp_path, convolutions=False)
    found = []
    for model in (exact, int8_linears(exact), measured):
        ir.save(model, tmp_path / "tower.onnx")
        with OnnxRunner(tmp_path / "tower.onnx", 1) as runner:
            found.append(runner.run({"pixel_values": frame})["image_embeds"].ravel().copy())
    assert linears > 5
    assert kinds(int8_linears(exact))["MatMulIntegerToFloat"] == linears
    assert kinds(measured)["DequantizeLinear"] >= 2 * linears
    assert "Gemm" not in kinds(measured)
    assert min(cosine(found[0], rounded) for rounded in found[1:]) > 0.99


def test_a_size_that_the_patches_do_not_fill_is_refused_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path, "qwen2.5-vl")
    for weights in tmp_path.glob("*.safetensors"):
        weights.write_bytes(b"not read")
    with pytest.raises(UnsupportedError, match="no multiple of 16: take --image-size 48x64"):
        load_vlm(tmp_path, width=50, height=60)


def test_int4_is_fitted_to_other_frames(tmp_path: Path, frames: Path) -> None:
    write_folder(tmp_path / "model", "llava-siglip")
    others = shutil.copytree(frames, tmp_path / "others")
    out = export_checkpoint(
        tmp_path / "model",
        tmp_path / "out",
        frames=frames,
        precision="int4",
        calibration=others,
        gate=Gate(logits_cosine=0.7, same_answers=0, mean_iou=0, within_half_bin=0),
    )
    verification = load_bundle(out).manifest.verification
    assert verification["quantisation"] == "GPTQ on 2 questions of others"
    assert 0.7 < verification["steps"][1]["logits_cosine"] < 0.9999


def test_tensorrt_fp16(tmp_path: Path, frames: Path) -> None:
    write_folder(tmp_path / "model", "qwen3-vl")
    out = export_checkpoint(
        tmp_path / "model",
        tmp_path / "out",
        frames=frames,
        target="tensorrt",
        image_size=(64, 48),
        context=256,
        gate=LOOSE,
    )
    manifest = load_bundle(out).manifest
    assert list(manifest.graphs) == ["tensorrt"] and manifest.decoder.context == 256
    assert manifest.verification["steps"][1]["logits_cosine"] > 0.9999


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_importer_does_not_know_is_tried_and_said(
    name: str, tmp_path: Path, frames: Path
) -> None:
    write_folder(tmp_path / "model", name)
    said: list[str] = []
    out = export_checkpoint(
        tmp_path / "model",
        tmp_path / "out",
        frames=frames,
        precision="fp32",
        context=128,
        gate=EXACT,
        say=said.append,
    )
    notes = load_bundle(out).manifest.verification["notes"]
    expected = {
        "vipllava": "note: family 'vipllava' is not one that the importer was tested with",
        "llava-gpt-neox": "note: decoder family 'gpt_neox' is not one that the graph builder knows",
    }[name]
    assert any(line.startswith(expected) for line in said)
    assert f"note: {notes[0]}" in said
    if name == "llava-gpt-neox":
        with pytest.raises(UnsupportedError, match=r"traced, not drawn.*--precision fp32"):
            export_checkpoint(tmp_path / "model", tmp_path / "other", frames=frames)
        assert not (tmp_path / "other").exists()


def test_a_gate_out_of_reach_names_the_layer(
    tmp_path: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "model", "qwen3-vl")
    with pytest.raises(VerificationError, match=r"drifted: (decoder|vision) \S+ \(cosine 1\.0"):
        export_checkpoint(
            tmp_path / "model",
            tmp_path / "out",
            frames=frames,
            precision="fp32",
            image_size=(64, 48),
            gate=Gate(logits_cosine=1.1),
        )
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_by_the_command(tmp_path: Path, frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "model", "paligemma")
    arguments = ["export", str(tmp_path / "model"), "-o", str(tmp_path / "out")]
    arguments += ["--precision", "fp32", "--context", "200", "--verify-data", str(frames)]
    assert cli(arguments) == 0
    assert load_bundle(tmp_path / "out").manifest.decoder.context == 200
    assert cli(["check", str(tmp_path / "out")]) == 0
    assert set(CONFIGS) >= set(FAMILIES)
