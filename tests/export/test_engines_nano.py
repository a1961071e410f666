"""The shipped checkpoint for TensorRT: engines of every precision, and what its graphs answer.

The graphs are written as an export writes them, without the exam that follows. int4 is rounded to
nearest here: GPTQ changes values of a graph and no more. The tower is the same one in all fp16
precisions, so that it is built with one decoder for each GPU and left out with the others.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_mm.cli import main as cli
from edge_mm.data.scenes import read_frame, read_scenes
from edge_mm.evaluate.exam import questions_about
from edge_mm.evaluate.judge import iou
from edge_mm.model.checkpoint import load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_export.bundle import write_graphs
from edge_mm_export.calibrate import activation_scales, measure_ranges
from edge_mm_export.checkpoint import Checkpoint
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.samples import Sample, read_samples
from edge_mm_export.vision import trace_vision
from edge_mm_runtime.bundle import Bundle, load_bundle
from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.engines import build as build_module
from edge_mm_runtime.engines.library import choose_library
from edge_mm_runtime.engines.plan import Options, build_plan
from edge_mm_runtime.engines.profiles import decoder_sizes
from edge_mm_runtime.runner import OnnxRunner
from edge_mm_runtime.vocabulary import open_tokenizer

WHOLE = {"int8-channel": 86, "bf16": 89, "fp16": 120}
DECODER = {"int4": 86, "fp8": 89, "int8": 120, "w8a8": 120}
SIDE, CONTEXT, IMAGE_TOKENS, WIDTH = 240, 512, 100, 256
QUESTIONS = 50

needs_tensorrt_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="builds real engines: pip install 'edge-mm[rtx]'",
)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every machine builds as one without a GPU does."""
    monkeypatch.setattr(build_module, "find_gpu", lambda: None)


@pytest.fixture(scope="module")
def nano(repository: Path) -> EdgeMM:
    return load_model(repository / "models" / "nano")


Bundles = Callable[..., Bundle]


@pytest.fixture(scope="module")
def bundles(nano: EdgeMM, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """`bundles(precision, target="tensorrt")`: the unverified bundle, written once each."""
    scratch = tmp_path_factory.mktemp("nano")
    vision = trace_vision(
        nano.vision_graph(), width=SIDE, height=SIDE, box_head=True, target="tensorrt"
    )

    def write(precision: str, target: str = "tensorrt") -> Bundle:
        folder = scratch / f"{target}-{precision}"
        stored = PRECISIONS[target][precision]
        if not folder.exists():
            scales = None
            if stored.needs_scales:
                samples = read_samples(repository / "examples" / "frames")[:8]
                ranges = measure_ranges(write("fp32", "cpu").folder, samples, scratch)
                scales = activation_scales(ranges, stored)
            checkpoint = repository / "models" / "nano"
            options = {"target": target, "precision": precision}
            write_graphs(folder, Checkpoint(checkpoint, nano), vision, **options, scales=scales)
        return load_bundle(folder)

    return write


def build(bundle: Bundle, capability: str) -> int:
    return cli(["build", str(bundle.folder), "--json", "--compute-capability", capability])


def test_every_precision_and_gpu_is_tried() -> None:
    assert WHOLE.keys() | DECODER.keys() == PRECISIONS["tensorrt"].keys()
    assert set(WHOLE.values()) == {86, 89, 120}


@needs_tensorrt_rtx
@pytest.mark.parametrize(("precision", "capability"), WHOLE.items())
def test_engines_are_built_and_described(
    bundles: Bundles, capsys: pytest.CaptureFixture[str], precision: str, capability: int
) -> None:
    import tensorrt_rtx

    bundle = bundles(precision)
    assert build(bundle, str(capability)) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    folder = Path(told.pop("folder"))
    assert told.pop("built") is True
    described = json.loads((folder / "engine.json").read_text())
    assert described == told
    assert described["machine"] == {
        "gpu": f"ahead of time for SM{capability}",
        "compute_capability": capability,
        "flavour": "tensorrt_rtx",
        "tensorrt": tensorrt_rtx.__version__,
        "cuda": None,
    }
    assert (described["target"], described["precision"]) == ("tensorrt", precision)
    graphs, plans = bundle.graphs("tensorrt"), described["plans"]
    for name, graph in (("vision", graphs.vision), ("decoder", graphs.decoder)):
        plan = plans[name]
        data = (folder / plan["file"]).read_bytes()
        assert (plan["bytes"], plan["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        exported = (bundle.folder / graph).read_bytes()
        assert plan["onnx"] == graph
        assert plan["onnx_sha256"] == hashlib.sha256(exported).hexdigest()
        assert plan["build_s"] > 0
    assert plans["vision"]["profiles"] == []  # one picture of one size
    rows = [[1, WIDTH], [IMAGE_TOKENS, WIDTH], [CONTEXT, WIDTH]]
    for profile, name, tokens in zip(
        plans["decoder"]["profiles"],
        ("prefill", "decode"),
        ((1, IMAGE_TOKENS + 32, CONTEXT), (1, 1, 1)),
        strict=True,
    ):
        assert profile["name"] == name
        shapes = {k: [v["least"], v["usual"], v["greatest"]] for k, v in profile["shapes"].items()}
        sequence = [[1, count] for count in tokens]
        assert shapes == {"input_ids": sequence, "position_ids": sequence, "image_embeds": rows}


@needs_tensorrt_rtx
@pytest.mark.parametrize(("precision", "capability"), DECODER.items())
def test_other_precisions_have_an_engine_for_the_decoder(
    bundles: Bundles, tmp_path: Path, precision: str, capability: int
) -> None:
    bundle = bundles(precision)
    graphs = bundle.graphs("tensorrt")
    half = bundles("fp16")
    assert bundle.path(graphs.vision).read_bytes() == half.path(graphs.vision).read_bytes()
    library, _ = choose_library(None, capability)
    options = Options(library, "tensorrt", capability, 1 << 28, tmp_path, lambda line: None)
    sizes = decoder_sizes(CONTEXT, IMAGE_TOKENS, IMAGE_TOKENS + 32)
    plan, profiles = build_plan(bundle.path(graphs.decoder), "decoder", sizes, options)
    assert [profile.name for profile in profiles] == ["prefill", "decode"]
    weights = bundle.path(graphs.decoder).stat().st_size
    assert plan.nbytes > weights


@pytest.mark.parametrize(
    ("precision", "capability", "reason"),
    [
        ("fp16", "8.7", "SM87 is a Jetson Orin: .* run `edge-mm build` there, with JetPack's"),
        ("fp16", "110", "SM110 is a Jetson Thor: .* run `edge-mm build` there, with JetPack's"),
        pytest.param(
            "fp8",
            "sm_86",
            "computes in fp8, which needs SM89 .* for SM86: .* --precision int8 or int4 or fp16$",
            marks=needs_tensorrt_rtx,
        ),
        pytest.param("fp16", "90", "builds for SM.* and not for SM90", marks=needs_tensorrt_rtx),
    ],
)
def test_what_cannot_be_built_here_is_one_line(
    bundles: Bundles,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    capability: str,
    reason: str,
) -> None:
    bundle = bundles(precision)
    before = sorted(bundle.folder.rglob("*"))
    capsys.readouterr()
    assert build(bundle, capability) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert said.out == "" and line.startswith("error: ")
    assert re.search(reason, line)
    assert sorted(bundle.folder.rglob("*")) == before


def held_out(folder: Path) -> list[Sample]:
    """Questions in sentences that were never trained on, about photographs that were not either."""
    samples = [
        Sample(scene.image, read_frame(folder, scene), item.question.text, item.question.type)
        for scene in read_scenes(folder)
        for item in questions_about(scene, 3, held_out=True, seed=0)
    ]
    return samples[:QUESTIONS]


def same_but_for_a_bin(expected: Sequence[int], found: Sequence[int], bundle: Bundle) -> bool:
    bins = {token: number for number, token in enumerate(open_tokenizer(bundle)[1].locations)}
    return len(expected) == len(found) and all(
        a == b or (a in bins and b in bins and abs(bins[a] - bins[b]) == 1)
        for a, b in zip(expected, found, strict=True)
    )


def test_the_graphs_say_what_torch_says_on_50_held_out_questions(
    bundles: Bundles, nano: EdgeMM, repository: Path
) -> None:
    """The files that TensorRT builds, on ONNX Runtime's CPU provider, against torch in fp32.

    Every word and tag is the same; a side that torch has on the border of a bin may be in the next.
    """
    samples = held_out(repository / "examples" / "frames")
    assert len(samples) == QUESTIONS
    exact, bundle = bundles("fp32", "cpu"), bundles("fp16")
    torch_session = ProbedSession(exact.folder, TorchVision(nano), TorchDecoder(nano))
    graphs, geometry = bundle.graphs("tensorrt"), bundle.manifest.decoder
    session = ProbedSession(
        bundle.folder,
        OnnxRunner(bundle.path(graphs.vision), 1),
        open_decoder(bundle.path(graphs.decoder), geometry, 1, "tensorrt"),
        target="tensorrt",
    )
    expected, found = trace_all(torch_session, samples), trace_all(session, samples)
    changed = [
        (sample.picture, sample.text, a.answer.text, b.answer.text)
        for sample, a, b in zip(samples, expected, found, strict=True)
        if a.answer.text != b.answer.text or not same_but_for_a_bin(a.ids, b.ids, bundle)
    ]
    assert changed == []
    assert sum(a.ids != b.ids for a, b in zip(expected, found, strict=True)) <= 1
    for a, b in zip(expected, found, strict=True):
        for ours, theirs in zip(a.answer.objects, b.answer.objects, strict=True):
            assert ours.box_xyxy is not None and theirs.box_xyxy is not None
            assert iou(ours.box_xyxy, theirs.box_xyxy) > 0.98
        alike = a.logits.keys() & b.logits.keys()
        assert alike
        for read in alike:  # and where no grammar helps
            assert a.logits[read].argmax() == b.logits[read].argmax()
    assert sum(len(trace.generated) for trace in expected) > 4 * QUESTIONS
