"""References of a bundle: written from torch's answers, asked again without torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

import edge_mm_export.references as references_module
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_export.bundle import write_graphs
from edge_mm_export.checkpoint import Checkpoint
from edge_mm_export.probe import ProbedSession, Trace, trace_all
from edge_mm_export.references import as_seen, write_references
from edge_mm_export.samples import Sample, read_samples
from edge_mm_export.verify import Gate
from edge_mm_runtime.answer import Answer, GroundedObject
from edge_mm_runtime.bundle import load_bundle, write_manifest
from edge_mm_runtime.commands.check import main as check
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.image import ImageTransform, read_image
from edge_mm_runtime.references import References, read_references
from edge_mm_runtime.session import Session

Build = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def plain(
    checkpoint: Path, edge_mm: EdgeMM, traced: ir.Model, tmp_path_factory: pytest.TempPathFactory
) -> Build:
    """`plain(target, precision)`: a bundle of the tiny model without references."""
    folder = tmp_path_factory.mktemp("plain")

    def build(target: str, precision: str) -> Path:
        out = folder / f"{target}-{precision}"
        if not out.exists():
            write_graphs(
                out, Checkpoint(checkpoint, edge_mm), traced, target=target, precision=precision
            )
        return out

    return build


@pytest.fixture(scope="module")
def samples(frames: Path) -> tuple[Sample, ...]:
    return read_samples(frames)


@pytest.fixture(scope="module")
def traces(plain: Build, edge_mm: EdgeMM, samples: tuple[Sample, ...]) -> list[Trace]:
    """Torch's."""
    folder = plain("cpu", "fp32")
    return trace_all(ProbedSession(folder, TorchVision(edge_mm), TorchDecoder(edge_mm)), samples)


@pytest.fixture
def referenced(
    plain: Build, samples: tuple[Sample, ...], traces: list[Trace], tmp_path: Path
) -> Build:
    """`referenced(target, precision)`: a bundle with references and the default gate."""

    def build(target: str, precision: str) -> Path:
        folder = Path(shutil.copytree(plain(target, precision), tmp_path / f"{target}{precision}"))
        write_references(folder, samples, traces)
        seal(folder)
        return folder

    return build


def seal(folder: Path) -> None:
    """Hash what lies there now."""
    manifest = load_bundle(folder, verify="size").manifest
    gate = msgspec.to_builtins(Gate())
    write_manifest(folder, msgspec.structs.replace(manifest, verification={"gate": gate}))


def read(folder: Path) -> References:
    references = read_references(load_bundle(folder))
    assert references is not None
    return references


def test_torch_is_stored_as_it_answered(
    referenced: Build, samples: tuple[Sample, ...], traces: list[Trace]
) -> None:
    folder = referenced("cpu", "fp32")
    stored = {(item.picture, item.question): item for item in read(folder).questions}
    assert len(stored) == len(samples) == 6
    names = {"a.png": set(), "b.png": set()}
    transform = load_bundle(folder).manifest.image
    for sample, trace in zip(samples, traces, strict=True):
        logits = trace.logits[trace.prompt_length]
        [reference] = [
            item
            for item in stored.values()
            if item.question == sample.text
            and item.top_logits[0] == trace.logits[trace.prompt_length].max()
        ]
        names[sample.picture].add(reference.picture)
        frame = read_image(folder / "references" / reference.picture)
        assert frame.shape == (64, 64, 3)  # of 80 x 60
        np.testing.assert_array_equal(transform.apply(frame), transform.apply(sample.frame))
        assert (reference.text, reference.found) == (trace.answer.text, trace.answer.found)
        assert (reference.mode, reference.type) == (sample.mode, sample.type)
        assert reference.ids == trace.generated
        for item, expected in zip(reference.objects, trace.answer.objects, strict=True):
            assert item.label == expected.label
            np.testing.assert_allclose(
                item.box_xyxy, np.multiply(expected.box_xyxy, [64 / 80, 64 / 60] * 2), rtol=1e-9
            )
            np.testing.assert_allclose(
                item.point_xy, np.multiply(expected.point_xy, [64 / 80, 64 / 60]), rtol=1e-9
            )
        np.testing.assert_array_equal(reference.top_logits, np.sort(logits)[:-17:-1])
        np.testing.assert_array_equal(logits[list(reference.top_ids)], reference.top_logits)
    assert [len(pictures) for pictures in names.values()] == [1, 1]
    assert sum(len(item.objects) for item in stored.values()) > 2


def test_the_bundle_answers_like_torch_without_it(
    referenced: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check([str(referenced("cpu", "fp32")), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert (figures["questions"], figures["same_answers"], figures["same_tokens"]) == (6, 1, 1)
    assert figures["boxes"] > 2 and figures["within_half_bin"] == 1
    assert figures["mean_iou"] > 0.999 and figures["logits_difference_max"] < 1e-3


def test_other_weights_with_the_right_hashes_are_noticed(
    referenced: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = referenced("cpu", "fp32")
    path = folder / "decoder.cpu.onnx"
    model = ir.load(path)
    changed = 0
    for name, value in model.graph.initializers.items():
        if "layers.1." in name and value.const_value is not None and value.const_value.shape[1:]:
            value.const_value = ir.tensor(-20 * value.const_value.numpy(), name=name)
            changed += 1
    assert changed >= 4
    ir.save(model, path)
    with pytest.raises(BundleError, match=r"decoder.cpu.onnx has"):
        check([str(folder)])
    seal(folder)
    assert check([str(folder)]) == 1
    told = capsys.readouterr().out
    assert "FAILED: logits_cosine" in told and "FAILED: same_answers" in told


def test_graphs_for_a_gpu_are_checked_on_the_cpu(
    referenced: Build, samples: tuple[Sample, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = referenced("tensorrt", "fp16")
    assert check([str(folder), "--target", "tensorrt", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["target"], report["precision"]) == ("tensorrt", "fp16")
    assert 0 < report["figures"]["logits_difference_max"] < 0.5
    with Session(folder, threads=1) as session:
        answer = session.ask(samples[0].frame, samples[0].text, mode=samples[0].mode)
    assert answer.found is not None


def test_bf16_is_refused_by_name(referenced: Build) -> None:
    folder = referenced("tensorrt", "bf16")
    with pytest.raises(BundleError, match=r"onnx: .*bf16 graphs are for a GPU.*--precision fp16"):
        Session(folder)
    with pytest.raises(BundleError, match="bf16 graphs are for a GPU"):
        check([str(folder)])


TRANSFORMS = {
    "squash": ImageTransform("squash", 48, 40),
    "letterbox": ImageTransform("letterbox", 48, 40, fill=114),
    "cubic": ImageTransform("letterbox", 48, 48, interpolation="cubic"),
    "smart": ImageTransform("smart_resize", 48, 40, multiple_of=8, min_pixels=64),
}


@pytest.mark.parametrize("size", [(101, 77), (77, 101), (640, 3), (50, 41), (30, 20), (7, 200)])
@pytest.mark.parametrize("kind", TRANSFORMS)
def test_a_stored_frame_makes_the_same_pixel_values(kind: str, size: tuple[int, int]) -> None:
    transform = TRANSFORMS[kind]
    frame = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    if kind == "smart" and max(size) > 200 * min(size):
        return
    stored = as_seen(frame, transform)
    np.testing.assert_array_equal(transform.apply(stored), transform.apply(frame))
    assert stored.size <= frame.size
    if kind == "squash" and frame.size > 48 * 40 * 3:
        assert stored.shape == (40, 48, 3)


LOGITS = np.arange(20, dtype=np.float32)


def asked(picture: int, type: str, objects: int = 0) -> tuple[Sample, Trace]:
    """A question about a picture of its own, and an answer with so many objects."""
    frame = np.random.default_rng(picture).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    found = tuple(GroundedObject("cup", (i, 1, i + 9, 9), None, 0.5) for i in range(objects))
    answer = Answer("yes", found, None, (), "stop", {})
    sample = Sample(f"{picture}.jpg", frame, f"question about {picture}", type)
    return sample, Trace(answer, (1, 2, 3), 2, {2: LOGITS})


def written(folder: Path, *arguments: Any) -> list[str]:
    """The questions that write_references keeps, in order."""
    write_references(folder, *arguments)
    seal(folder)
    return [item.question.removeprefix("question about ") for item in read(folder).questions]


@pytest.fixture
def bare(plain: Build, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain("cpu", "fp32"), tmp_path / "bare"))


def test_eight_frames_cover_the_types_then_the_most_boxes(bare: Path) -> None:
    many = [asked(i, "locate", objects=i) for i in range(10)]
    many += [asked(20, "count"), asked(21, "yes"), asked(22, "yes", objects=2)]
    kept = written(bare, *zip(*many, strict=True))
    assert kept == ["9", "22", "20", "8", "7", "6", "5", "4"]


def test_frames_that_do_not_fit_are_left_out(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references_module, "MOST_BYTES", 30_000)  # noise: 12 kB each
    kept = written(bare, *zip(*[asked(i, "locate") for i in range(4)], strict=True))
    assert len(kept) == 2
    assert sum(path.stat().st_size for path in bare.glob("references/*.png")) <= 30_000


def test_frames_on_which_the_export_differs_are_no_references(bare: Path) -> None:
    both = [asked(i, "locate", objects=1) for i in range(3)]
    samples, torch_traces = zip(*both, strict=True)
    exported = list(torch_traces)
    other = dataclasses.replace(exported[0], logits={2: -LOGITS})
    moved = GroundedObject("cup", (3, 1, 12, 9), None, 0.5)
    answer = msgspec.structs.replace(exported[2].answer, objects=(moved,))
    exported[0], exported[2] = other, dataclasses.replace(exported[2], answer=answer)
    assert written(bare, samples, torch_traces, exported) == ["1"]
