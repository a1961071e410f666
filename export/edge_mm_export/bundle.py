"""Writes the parts of a bundle that are not measured: graphs, tokenizer, template, manifest.

The schema is the runtime's (`edge_mm_runtime.bundle`); this file only fills it in.
"""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from torch import Tensor

from edge_mm.model.checkpoint import WEIGHTS
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.session import describe
from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec, spec_from_llama
from edge_mm_export.islands import NO_ISLANDS, Islands, with_islands
from edge_mm_export.linear import BlockWeights, Scales
from edge_mm_export.precision import Precision, find_precision
from edge_mm_export.vision import stored_vision
from edge_mm_runtime.bundle import BundleManifest, GraphSet, Provenance, write_manifest

_TOOLS = ("edge-mm", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_RUNTIME_BYTES = 110 << 20  # Python, numpy, OpenCV and ONNX Runtime, before any graph

_EXPORTER_BYTES = 600 << 20  # torch, transformers and the graph tools, before any model


def write_bundle(
    folder: Path,
    checkpoint: Path,
    model: EdgeMM,
    vision: ir.Model,
    *,
    target: str,
    precision: str,
    scales: Scales | None = None,
    quantised: BlockWeights | None = None,
    islands: Islands = NO_ISLANDS,
) -> BundleManifest:
    """Write a complete, unverified bundle of one target to `folder`; returns its manifest.

    `vision` is the traced fp32 graph; `scales` and `quantised` are those of `build_decoder`;
    `islands` are what computes in fp32 where the precision computes in 16 bits.
    """
    folder.mkdir()
    _, stored = find_precision(target, precision)
    graphs = GraphSet(f"vision.{target}.onnx", f"decoder.{target}.onnx", precision)
    ir.save(stored_vision(vision, stored, islands.vision), folder / graphs.vision)
    decoder = draw_decoder(
        model, target=target, precision=precision, scales=scales, quantised=quantised
    )
    ir.save(with_islands(decoder, islands.decoder), folder / graphs.decoder)
    manifest = msgspec.structs.replace(
        describe(model, checkpoint),
        licence=_copy_licence(checkpoint, folder),
        provenance=_provenance(checkpoint),
        graphs={target: graphs},
        memory_estimate_bytes=_memory(folder, graphs, decoder_spec(model), stored),
    )
    (folder / "chat_template.jinja").write_text(manifest.prompt.template, encoding="utf-8")
    shutil.copy(checkpoint / "tokenizer.json", folder / "tokenizer.json")
    return write_manifest(folder, manifest)


def draw_decoder(
    model: EdgeMM,
    *,
    target: str,
    precision: str,
    scales: Scales | None = None,
    quantised: BlockWeights | None = None,
) -> ir.Model:
    """The decoder graph of a model without islands: see `build_decoder`."""
    return build_decoder(
        decoder_spec(model),
        EdgeMMWeights(model),
        target=target,
        precision=precision,
        scales=scales,
        quantised=quantised,
    )


def export_memory(model: EdgeMM, precision: Precision) -> int:
    """Peak of the exporting process, in bytes: libraries, then the model several times over.

    While a graph is written there are torch's weights, the graph's, and the file as it is
    serialised; while it is asked, torch's and the engine's. GPTQ adds the Hessians of one layer.
    """
    weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    language = model.config.language
    widths = 3 * language.hidden_size**2 + language.intermediate_size**2
    hessians = 8 * 3 * widths if precision.weights == "int4" else 0
    return _EXPORTER_BYTES + 4 * weights + hessians


def has_box_head(model: EdgeMM) -> bool:
    """Whether places come from the region head, so that the graphs must have it."""
    return model.config.grounding.box_source == "head"


def decoder_spec(model: EdgeMM) -> DecoderSpec:
    """The decoder's geometry; UnsupportedError for what the graph builder does not know."""
    size = model.region_query.out_features if has_box_head(model) else None
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


def _provenance(checkpoint: Path) -> Provenance:
    digest = hashlib.sha256()
    with (checkpoint / WEIGHTS).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    recipe = checkpoint / "recipe.yaml"
    installed = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return Provenance(
        checkpoint_sha256=digest.hexdigest(),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        tools={name: installed[name] for name in _TOOLS if name in installed},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _copy_licence(checkpoint: Path, folder: Path) -> str:
    """The checkpoint's LICENSE goes along; its name if it is ours, else where to read it."""
    path = checkpoint / "LICENSE"
    if not path.is_file():
        return "unspecified"
    text = path.read_text(encoding="utf-8")
    shutil.copy(path, folder / "LICENSE")
    return "Apache-2.0" if "Apache License" in text and "Version 2.0" in text else "see LICENSE"


def _memory(folder: Path, graphs: GraphSet, spec: DecoderSpec, precision: Precision) -> int:
    """Peak of a process: runtime, graphs (file and unpacked weights at once), cache.

    It is measured on ONNX Runtime's CPU provider; `edge-mm build` measures what TensorRT needs.
    """
    vision = (folder / graphs.vision).stat().st_size
    decoder = (folder / graphs.decoder).stat().st_size
    value_bytes = ir.DataType[precision.activations].itemsize
    cache = 2 * spec.layers * spec.kv_heads * spec.context * spec.head_dim * value_bytes
    unpacked = 2 * vision if precision.table == precision.activations else 3 * vision
    return _RUNTIME_BYTES + int(unpacked + 2 * decoder + cache)
