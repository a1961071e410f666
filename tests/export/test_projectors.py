"""Every projector goes through the export: a bundle that says what torch says, token by token."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from torch import Tensor, nn

from edge_mm.model.checkpoint import load_model
from edge_mm.model.config import ProjectorConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.efficientnet_lite import FEATURE_CHANNELS
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_export.export import export_checkpoint
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.samples import read_samples
from edge_mm_runtime.bundle import load_bundle

PROJECTORS = (
    ProjectorConfig("linear"),
    ProjectorConfig("mlp", layers=3),
    ProjectorConfig("pixel_shuffle"),
    ProjectorConfig("qformer", queries=3, heads=2),
    ProjectorConfig("perceiver", queries=3, heads=2),
    ProjectorConfig("multi_scale", feature_layers=(1, -1)),
)


class SmallEye(nn.Module):
    """EfficientNet-Lite0's shapes at strides 4 to 32, one convolution each: quick to trace."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Conv2d(3, channels, stride, stride)
            for channels, stride in zip(FEATURE_CHANNELS, (4, 8, 16, 32), strict=True)
        )

    def forward(self, pixel_values: Tensor, _frozen: int = 0) -> list[Tensor]:
        return [block(pixel_values) for block in self.blocks]


@pytest.mark.parametrize("projector", PROJECTORS, ids=lambda projector: projector.kind)
def test_the_bundle_says_what_torch_says(
    edge_mm: EdgeMM,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    projector: ProjectorConfig,
) -> None:
    from .conftest import write_checkpoint

    monkeypatch.setattr("edge_mm.model.vision.EfficientNetLite0", SmallEye)
    vision = msgspec.structs.replace(edge_mm.config.vision, token_grid=4, layers=2)
    config = msgspec.structs.replace(edge_mm.config, vision=vision, projector=projector)
    torch.manual_seed(5)
    model = EdgeMM(config).eval()
    model.lm.load_state_dict(edge_mm.lm.state_dict())
    checkpoint = write_checkpoint(tmp_path / "checkpoint", model)

    out = export_checkpoint(checkpoint, tmp_path / "out", frames=frames, precision="fp32")
    manifest = load_bundle(out).manifest
    assert manifest.prompt.image_token_count == config.image_tokens
    assert manifest.verification["steps"][0]["logits_difference_max"] < 1e-3

    loaded, samples = load_model(checkpoint), read_samples(frames)
    torch_session = ProbedSession(out, TorchVision(loaded), TorchDecoder(loaded))
    expected = trace_all(torch_session, samples)
    found = trace_all(ProbedSession(out), samples)
    assert [trace.ids for trace in found] == [trace.ids for trace in expected]
    assert sum(len(trace.generated) for trace in expected) > len(samples)
