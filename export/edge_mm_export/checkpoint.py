"""Our own checkpoints as what an export is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from edge_mm.evaluate.calibrate import read_record
from edge_mm.model.checkpoint import WEIGHTS, load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm.model.session import describe, open_model
from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec, spec_from_llama
from edge_mm_export.errors import ExportError
from edge_mm_export.hessians import gptq_weights, read_passages
from edge_mm_export.linear import BlockWeights, Scales
from edge_mm_export.precision import Precision
from edge_mm_export.samples import Sample
from edge_mm_export.subject import FloatArray
from edge_mm_export.watch import watching
from edge_mm_runtime.bundle import BundleManifest
from edge_mm_runtime.runner import Runner

EXPORTER_BYTES = 600 << 20
"""torch, transformers and the graph tools, before any model."""


class Checkpoint:
    """A `Subject` of an `EdgeMM` model and the folder that it was read from."""

    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path, model: EdgeMM) -> None:
        self.folder, self.model = folder, model
        self.width, self.height = model.config.image.width, model.config.image.height
        self.box_head = model.config.grounding.box_source == "head"
        self.confidence = read_record(folder, model.config.grounding)

    def manifest(self) -> BundleManifest:
        """What a bundle says of the model, without graphs, files and provenance."""
        return describe(self.model, self.folder)

    def weight_files(self) -> Sequence[Path]:
        """The files that hold the weights."""
        return (self.folder / WEIGHTS,)

    def check(self, target: str, precision: str) -> None:
        """Everything can be made of our own."""

    def memory(self, precision: Precision) -> int:
        """About the peak of the exporting process, in bytes.

        While a graph is written there are torch's weights, the graph's, and the file as it is
        serialised; while it is asked, torch's and the engine's. GPTQ adds one layer's Hessians.
        """
        weights = sum(parameter.numel() * 4 for parameter in self.model.parameters())
        language = self.model.config.language
        widths = 3 * language.hidden_size**2 + language.intermediate_size**2
        hessians = 8 * 3 * widths if precision.weights == "int4" else 0
        return EXPORTER_BYTES + 4 * weights + hessians

    def askable(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """The questions as this model can be asked them: as they are."""
        return tuple(samples)

    def vision_graph(self) -> nn.Module:
        """pixel_values [1, 3, height, width] -> (image_embeds, region_keys, region_boxes)"""
        return self.model.vision_graph()

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
        return draw_decoder(
            self.model,
            target=target,
            precision=precision,
            scales=scales,
            quantised=quantised,
            spool=spool,
        )

    def torch_vision(self) -> Runner:
        """The vision graph in torch, fp32."""
        return TorchVision(self.model)

    def torch_decoder(self) -> Runner:
        """The decoder of the target `cpu` in torch, fp32."""
        return TorchDecoder(self.model)

    @torch.no_grad()
    def residuals(
        self, pixel_values: FloatArray, image_embeds: FloatArray, ids: list[int]
    ) -> Mapping[str, FloatArray]:
        """Residuals [1, S, D] by layer, then logits [1, V] and region_query [1, K], of a prompt."""
        model = self.model
        with watching(model.lm.model.layers) as seen:
            memory = torch.from_numpy(image_embeds)[None]
            embeds = model.embed(torch.tensor([ids]), memory)
            hidden = model.hidden_states(embeds, image_memory=memory)[-1][:, -1]
        found = dict(seen)
        found["logits"] = model.lm.lm_head(hidden).numpy()
        found["region_query"] = model.region_query(hidden).numpy()
        return found

    def fit_blocks(self, samples: Sequence[Sample], stored: Precision, exact: Path) -> BlockWeights:
        """Weights in blocks fitted by GPTQ to what the model reads on these samples."""
        passages = read_passages(self.model, self.folder, samples)
        spec, weights = decoder_spec(self.model), EdgeMMWeights(self.model)
        return gptq_weights(self.model, passages, spec, weights, stored)

    def release(self) -> None:
        """Keeps everything: our models are small."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check one of our checkpoints.

    Refuses what would only be found out once graphs are built of it: CheckpointError for a damaged
    folder, ExportError for weights that are not finite, errors of the tokenizer beside it.
    """
    model = load_model(folder)
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise ExportError(f"{folder / WEIGHTS}: {name} has values that are not finite")
    open_model(model, folder, model.config.grounding).close()  # with the tokenizer beside it
    return Checkpoint(folder, model)


def draw_decoder(
    model: EdgeMM,
    *,
    target: str,
    precision: str,
    scales: Scales | None = None,
    quantised: BlockWeights | None = None,
    spool: Path | None = None,
) -> ir.Model:
    """The decoder graph of a model without islands: see `build_decoder`."""
    return build_decoder(
        decoder_spec(model),
        EdgeMMWeights(model),
        target=target,
        precision=precision,
        scales=scales,
        quantised=quantised,
        spool=spool,
    )


def decoder_spec(model: EdgeMM) -> DecoderSpec:
    """The decoder's geometry; UnsupportedError for what the graph builder does not know."""
    head = model.config.grounding.box_source == "head"
    size = model.region_query.out_features if head else None
    spec, fusion = spec_from_llama(model.lm.config, region_size=size), model.config.fusion
    return msgspec.structs.replace(
        spec, gated_blocks=fusion.places(spec.layers), gated_heads=fusion.heads
    )


class EdgeMMWeights(Mapping[str, npt.NDArray[np.floating]]):
    """The decoder's weights by their transformers names, made numpy one at a time."""

    def __init__(self, model: EdgeMM) -> None:
        self._tensors: dict[str, Tensor] = dict(model.lm.state_dict())
        for name, module in (("region_query", model.region_query), ("fusion", model.fusion)):
            if module is not None:
                self._tensors |= {f"{name}.{k}": v for k, v in module.state_dict().items()}

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        array: npt.NDArray[np.floating] = self._tensors[name].detach().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
