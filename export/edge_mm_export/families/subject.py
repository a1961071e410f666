"""A transformers folder as what an export is made of: the model, its words and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from torch import nn

from edge_mm_export.checkpoint import EXPORTER_BYTES
from edge_mm_export.decoder import build_decoder
from edge_mm_export.errors import UnsupportedError
from edge_mm_export.families.fit import Passage, fit_blocks
from edge_mm_export.families.picture import read_picture
from edge_mm_export.families.places import grounding_of
from edge_mm_export.families.reference import ReferenceDecoder, ReferenceVision
from edge_mm_export.families.vlm import ImportedVLM, load_vlm
from edge_mm_export.families.words import Words
from edge_mm_export.linear import BlockWeights, Scales
from edge_mm_export.precision import EXACT, Precision
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.samples import Sample
from edge_mm_export.subject import FloatArray
from edge_mm_export.weights import weight_files
from edge_mm_runtime.bundle import BundleManifest, Provenance
from edge_mm_runtime.codecs import open_codec
from edge_mm_runtime.runner import Runner


class Folder:
    """A `Subject` in the transformers folder format."""

    box_head = False
    confidence: dict[str, Any] | None = None  # nothing was fitted

    def __init__(self, model: ImportedVLM) -> None:
        self.model, self.folder = model, model.folder
        self.width, self.height = model.width, model.height
        self._picture = read_picture(
            self.folder, model.family, self.width, self.height, any_size=model.any_size
        )
        self._words = Words(self.folder, model.config)
        self._words.stop_ids()  # what is missing is said before the weights are read
        self._words.prompt(1)
        self.notes = (*model.notes, *self._picture.notes)

    def manifest(self) -> BundleManifest:
        """What a bundle says of the model, without graphs, files and provenance."""
        model = self.model
        return BundleManifest(
            name=self.folder.resolve().name,
            family=model.family,
            licence="unspecified",
            provenance=Provenance(checkpoint_sha256="", recipe="", tools={}, created=""),
            image=self._picture.transform,
            prompt=self._words.prompt(model.rows),
            stop_ids=self._words.stop_ids(),
            grounding=grounding_of(model.family),
            decoder=model.geometry,
            graphs={},
        )

    def weight_files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return weight_files(self.folder)

    def check(self, target: str, precision: str) -> None:
        """Raise UnsupportedError where the graphs of this model cannot be made so."""
        if not self.model.is_drawn and (target, precision) != EXACT:
            raise UnsupportedError(
                f"{self.folder}: its decoder is traced, not drawn, which gives --target cpu "
                f"--precision fp32 only, not {target} {precision}"
            )

    def memory(self, precision: Precision) -> int:
        """About the peak of the exporting process, in bytes: as measured, whatever the precision.

        Weights are mapped from the checkpoint's file and go to the graph's one at a time. It takes
        most while torch or ONNX Runtime is asked: the mapped file, the tower in fp32, the largest
        weight in fp32, and what lies between layers.
        """
        return EXPORTER_BYTES + 2 * sum(path.stat().st_size for path in self.weight_files())

    def askable(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """The questions as this model can be asked them: in words where it names no places."""
        modes = open_codec(grounding_of(self.model.family)).modes
        return tuple(
            sample if sample.mode in modes else sample.in_mode("auto") for sample in samples
        )

    def vision_graph(self) -> nn.Module:
        """pixel_values [1, 3, height, width] -> (image_embeds [1, T, D],)"""
        return self.model.vision

    def draw_decoder(
        self,
        target: str,
        precision: str,
        *,
        scales: Scales | None = None,
        quantised: BlockWeights | None = None,
        spool: Path | None = None,
    ) -> ir.Model:
        """The decoder graph: see `decoder.build_decoder`, and `families.generic` for others."""
        if not self.model.is_drawn:
            return self.model.traced_decoder()
        return build_decoder(
            self.model.spec,
            self.model.weights,
            target=target,
            precision=precision,
            scales=scales,
            quantised=quantised,
            spool=spool,
        )

    def torch_vision(self) -> Runner:
        """The vision graph by transformers' own class, fp32."""
        return ReferenceVision(self.model.reference)

    def torch_decoder(self) -> Runner:
        """The decoder of the target `cpu` by transformers' own class, fp32."""
        return ReferenceDecoder(self.model.reference, self.model.geometry.rope_grid is not None)

    def residuals(
        self, pixel_values: FloatArray, image_embeds: FloatArray, ids: list[int]
    ) -> Mapping[str, FloatArray]:
        """By transformers' own class: the residual stream after each layer, then logits."""
        return self.model.reference.residuals(ids, pixel_values)

    def fit_blocks(self, samples: Sequence[Sample], stored: Precision, exact: Path) -> BlockWeights:
        """Weights in blocks fitted by GPTQ to what the model reads on these samples."""
        transform = self._picture.transform
        asked = self.askable(samples)
        traces = trace_all(ProbedSession(exact, self.torch_vision(), self.torch_decoder()), asked)
        passages = [
            Passage(list(trace.ids), trace.prompt_length, transform.apply(sample.frame))
            for trace, sample in zip(traces, asked, strict=True)
        ]
        return fit_blocks(self.model, passages, stored)

    def release(self) -> None:
        """Give back the memory of what can be read again."""
        self.model.release()


def open_folder(
    folder: Path, *, size: tuple[int, int] | None = None, context: int | None = None
) -> Folder:
    """Open and check a transformers folder; `size` and `context` as of `load_vlm`.

    Raises UnsupportedError for what the exporter cannot draw, ExportError for a damaged folder.
    """
    width, height = size or (None, None)
    return Folder(load_vlm(folder, width=width, height=height, context=context))
