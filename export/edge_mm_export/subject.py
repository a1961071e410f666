"""What an export is made of: a model, whoever has trained it.

`checkpoint.py` has our own, `families/` those in the format of transformers. The steps of an export
know no more of a model than this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import nn

from edge_mm_export.linear import BlockWeights, Scales
from edge_mm_export.precision import Precision
from edge_mm_export.samples import Sample
from edge_mm_runtime.bundle import BundleManifest
from edge_mm_runtime.runner import Runner

FloatArray = npt.NDArray[np.float32]


class Subject(Protocol):
    """A model to be exported."""

    folder: Path
    """Of the checkpoint."""
    width: int
    height: int
    """Of `pixel_values`."""
    box_head: bool
    """Whether places come from a region head, so that the graphs must have it."""
    notes: tuple[str, ...]
    """What the importer chose, in sentences: for the output, the report and bundle.json."""
    confidence: dict[str, Any] | None
    """What the confidences were worth where they were fitted, as `edge-mm calibrate` wrote it."""

    def manifest(self) -> BundleManifest:
        """What a bundle says of the model, without graphs, files and provenance."""

    def weight_files(self) -> Sequence[Path]:
        """The files that hold the weights."""

    def check(self, target: str, precision: str) -> None:
        """Raise UnsupportedError where the graphs of this model cannot be made so."""

    def memory(self, precision: Precision) -> int:
        """About the peak of the exporting process, in bytes."""

    def askable(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """The questions as this model can be asked them."""

    def vision_graph(self) -> nn.Module:
        """pixel_values [1, 3, height, width] -> (image_embeds, ...): see `vision.trace_vision`."""

    def draw_decoder(
        self,
        target: str,
        precision: str,
        *,
        scales: Scales | None = None,
        quantised: BlockWeights | None = None,
        spool: Path | None = None,
    ) -> ir.Model:
        """The decoder graph: see `decoder.build_decoder`."""

    def torch_vision(self) -> Runner:
        """The vision graph in torch, fp32, by the model's own class."""

    def torch_decoder(self) -> Runner:
        """The decoder of the target `cpu` in torch, fp32, by the model's own class.

        It looks at what `torch_vision` has looked at last.
        """

    def residuals(
        self, pixel_values: FloatArray, image_embeds: FloatArray, ids: list[int]
    ) -> Mapping[str, FloatArray]:
        """In torch, of a prompt: `residual_name(layer)` [1, S, D], then logits [1, V] and others.

        image_embeds [T, D] are torch's own for these pixels.
        """

    def fit_blocks(self, samples: Sequence[Sample], stored: Precision, exact: Path) -> BlockWeights:
        """Weights in blocks fitted by GPTQ to what the model reads on these samples.

        exact: the folder of an unverified bundle, for torch to be asked by.
        """

    def release(self) -> None:
        """Give back the memory of what can be read again."""
