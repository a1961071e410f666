"""Every fusion goes through the export: a bundle that says what torch says, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch

from edge_mm.model.checkpoint import load_model
from edge_mm.model.config import FusionConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder
from edge_mm_export.checkpoint import Checkpoint, EdgeMMWeights, decoder_spec
from edge_mm_export.decoder import build_decoder
from edge_mm_export.drift import first_drifted
from edge_mm_export.export import export_checkpoint
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.samples import read_samples
from edge_mm_export.verify import Gate
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.decoder import Decoder, open_decoder

FUSIONS = {
    "cross_attention": FusionConfig("cross_attention", every=1, heads=2),
    "late": FusionConfig("late", layers=2),
}
LOOSE = Gate(logits_cosine=0.9, same_answers=0, mean_iou=0, within_half_bin=0)  # random weights


@pytest.fixture(scope="module", params=FUSIONS)
def exported(
    request: pytest.FixtureRequest,
    edge_mm: EdgeMM,
    frames: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[EdgeMM, Path]]:
    """The tiny model with open gates and a tower that is quick to trace, and its int8 bundle."""
    from .conftest import write_checkpoint
    from .test_projectors import SmallEye

    folder = tmp_path_factory.mktemp(request.param)
    config = msgspec.structs.replace(edge_mm.config, fusion=FUSIONS[request.param])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge_mm.model.vision.EfficientNetLite0", SmallEye)
        torch.manual_seed(5)
        model = EdgeMM(config)
        model.lm.load_state_dict(edge_mm.lm.state_dict())
        for name, parameter in model.named_parameters():
            if name.endswith("_gate"):
                torch.nn.init.constant_(parameter, 0.8)
        checkpoint = write_checkpoint(folder / "checkpoint", model)
        out = export_checkpoint(checkpoint, folder / "out", frames=frames, gate=LOOSE)
        yield load_model(checkpoint), out


def test_the_bundle_says_what_torch_says(exported: tuple[EdgeMM, Path]) -> None:
    _, out = exported
    manifest = load_bundle(out).manifest
    exact, int8 = manifest.verification["steps"]
    assert exact["questions"] == 6 and exact["boxes"] > 0
    assert exact["logits_difference_max"] < 1e-3
    assert exact["same_tokens"] == exact["same_answers"] == 1
    assert 0.99 < int8["logits_cosine"] < 1
    assert manifest.prompt.image_token_count == 0
    graph = ir.load(out / "decoder.cpu.onnx").graph
    products = sum(node.op_type == "MatMulNBits" for node in graph)
    assert products == 2 * 4 + 1 + 2 * 4  # layers, lm_head, blocks: all of them in 8 bits


def test_no_picture_is_left_over_in_the_next_answer(
    exported: tuple[EdgeMM, Path], frames: Path
) -> None:
    _, out = exported
    samples = [sample for sample in read_samples(frames) if sample.text == "what is there?"]
    first, second = trace_all(ProbedSession(out), samples)
    (fresh,) = trace_all(ProbedSession(out), samples[1:])
    assert first.prompt == second.prompt == fresh.prompt
    at = len(fresh.prompt)
    assert not np.allclose(first.logits[at], fresh.logits[at], atol=1e-3)  # it is looked at
    np.testing.assert_allclose(second.logits[at], fresh.logits[at], atol=1e-4)


@pytest.mark.parametrize(
    ("target", "precision"),
    [("cuda", "fp16"), ("tensorrt", "fp16"), ("tensorrt-10.3", "fp32"), ("tensorrt-10.3", "fp16")],
)
def test_gated_blocks_in_the_graphs_of_other_targets(
    exported: tuple[EdgeMM, Path], tmp_path: Path, target: str, precision: str
) -> None:
    model, out = exported
    spec, geometry = decoder_spec(model), load_bundle(out).manifest.decoder
    graph = build_decoder(spec, EdgeMMWeights(model), target=target, precision=precision)
    ir.save(graph, tmp_path / "decoder.onnx")
    image = np.random.default_rng(0).normal(size=(4, spec.image_size)).astype(np.float32)
    found = Decoder(open_decoder(tmp_path / "decoder.onnx", geometry, 1, target), geometry, target)
    expected = Decoder(TorchDecoder(model), geometry)
    ids: list[int] = [1, 5, 200, 6, 90, 17]
    for decoder in (found, expected):
        decoder.set_image(image)
    a, b = found.prefill(ids), expected.prefill(ids)
    tolerance = 1e-3 if precision == "fp32" else 0.02
    for new in ([7, 300, 12], *([token] for token in range(40, 56))):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, atol=tolerance * np.abs(y).max())
        assert a.logits.argmax() == b.logits.argmax()
        a, b = found.extend(new), expected.extend(new)


@torch.no_grad()
def test_the_first_module_that_drifted_is_found(
    exported: tuple[EdgeMM, Path], frames: Path, tmp_path: Path
) -> None:
    model, out = exported
    pixel_values = model.config.image.apply(read_samples(frames)[0].frame)
    weight = model.fusion.blocks[1].output.weight
    weight.mul_(-20)
    found = first_drifted(
        Checkpoint(out, model), load_bundle(out), "cpu", pixel_values, [1, 5, 200, 6], tmp_path
    )
    weight.div_(-20)
    late = model.config.fusion.kind == "late"
    assert found.startswith("decoder logits " if late else "decoder residual.1 ")
