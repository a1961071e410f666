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
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from tokenizers import Tokenizer
from torch import Tensor

from edge_mm.model.checkpoint import WEIGHTS
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_export.decoder import build_decoder
from edge_mm_export.decoder_spec import DecoderSpec, spec_from_llama
from edge_mm_export.errors import ExportError
from edge_mm_export.vision import halved
from edge_mm_runtime.bundle import (
    BundleManifest,
    DecoderGeometry,
    GraphSet,
    Grounding,
    Provenance,
    write_manifest,
)
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt

IMAGE_TOKEN = "<image>"
STOP_TOKEN = "<eos>"

_TOOLS = ("edge-mm", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_RUNTIME_BYTES = 110 << 20  # Python, numpy, OpenCV and ONNX Runtime, before any graph


def write_bundle(
    folder: Path,
    checkpoint: Path,
    model: EdgeMM,
    vision: ir.Model,
    *,
    target: str,
    precision: str,
) -> BundleManifest:
    """Write a complete, unverified bundle of one target to `folder`; returns its manifest.

    `vision` is the traced fp32 graph; every precision below stores its weights as fp16.
    """
    folder.mkdir()
    spec = decoder_spec(model)
    graphs = GraphSet(f"vision.{target}.onnx", f"decoder.{target}.onnx", precision)
    ir.save(vision if precision == "fp32" else halved(vision), folder / graphs.vision)
    decoder = build_decoder(spec, EdgeMMWeights(model), target=target, precision=precision)
    ir.save(decoder, folder / graphs.decoder)
    prompt = Prompt(NANO_TEMPLATE, IMAGE_TOKEN, image_tokens(vision))
    (folder / "chat_template.jinja").write_text(prompt.template, encoding="utf-8")
    shutil.copy(checkpoint / "tokenizer.json", folder / "tokenizer.json")
    manifest = BundleManifest(
        name=model.config.name,
        family="edge_mm",
        licence=_copy_licence(checkpoint, folder),
        provenance=_provenance(checkpoint),
        image=model.config.image,
        prompt=prompt,
        stop_ids=(_stop_id(checkpoint, spec.vocab_size),),
        grounding=_grounding(model),
        decoder=DecoderGeometry(
            spec.layers,
            spec.kv_heads,
            spec.head_dim,
            spec.context,
            spec.vocab_size,
            spec.hidden_size,
        ),
        graphs={target: graphs},
        memory_estimate_bytes=_memory(folder, graphs, spec),
    )
    return write_manifest(folder, manifest)


def has_box_head(model: EdgeMM) -> bool:
    """Whether places come from the region head, so that the graphs must have it."""
    return model.config.grounding.box_source == "head"


def decoder_spec(model: EdgeMM) -> DecoderSpec:
    """The decoder's geometry; UnsupportedError for what the graph builder does not know."""
    size = model.region_query.out_features if has_box_head(model) else None
    return spec_from_llama(model.lm.config, region_size=size)


class EdgeMMWeights(Mapping[str, npt.NDArray[np.floating]]):
    """The decoder's weights by their transformers names, made numpy one at a time."""

    def __init__(self, model: EdgeMM) -> None:
        query = {f"region_query.{k}": v for k, v in model.region_query.state_dict().items()}
        self._tensors: dict[str, Tensor] = {**model.lm.state_dict(), **query}

    def __getitem__(self, name: str) -> npt.NDArray[np.floating]:
        array: npt.NDArray[np.floating] = self._tensors[name].detach().numpy()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def image_tokens(vision: ir.Model) -> int:
    """How many rows of image_embeds the vision graph makes of a frame."""
    shape = vision.graph.outputs[0].shape
    if shape is None or not isinstance(shape[1], int):
        raise ExportError("the vision graph has no fixed number of image tokens")
    return shape[1]


def _stop_id(checkpoint: Path, vocab_size: int) -> int:
    path = checkpoint / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises a bare Exception
        raise ExportError(f"{path} is not a tokenizer: {error}") from None
    if tokenizer.get_vocab_size() > vocab_size:
        raise ExportError(
            f"{path} has {tokenizer.get_vocab_size()} tokens, the model only {vocab_size}: "
            "they are not of one checkpoint"
        )
    stop = tokenizer.token_to_id(STOP_TOKEN)
    if stop is None:
        raise ExportError(f"{path} has no token {STOP_TOKEN}")
    return int(stop)


def _grounding(model: EdgeMM) -> Grounding:
    config = model.config.grounding
    if config.codec != "edge_mm" or config.box_source not in ("head", "tokens"):
        raise ExportError(
            f"grounding codec {config.codec!r} with boxes from {config.box_source!r} cannot be "
            "exported: known are codec 'edge_mm', boxes from 'head' or 'tokens'"
        )
    box_source: Literal["head", "tokens"] = "head" if has_box_head(model) else "tokens"
    return Grounding(codec="edge_mm", bins=config.bins, box_source=box_source)


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


def _memory(folder: Path, graphs: GraphSet, spec: DecoderSpec) -> int:
    """Peak of a CPU process: runtime, graphs (file and unpacked weights at once), cache."""
    vision = (folder / graphs.vision).stat().st_size
    decoder = (folder / graphs.decoder).stat().st_size
    cache = 2 * spec.layers * spec.kv_heads * spec.context * spec.head_dim * 4
    unpacked = 3 * vision if graphs.precision != "fp32" else 2 * vision
    return _RUNTIME_BYTES + unpacked + 2 * decoder + cache
