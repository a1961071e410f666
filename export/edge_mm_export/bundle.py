"""Writes the parts of a bundle that are not measured: graphs, tokenizer, template, manifest.

The schema is the runtime's (`edge_mm_runtime.bundle`); this file only fills it in.
"""

from __future__ import annotations

import datetime
import re
import shutil
from importlib import metadata
from pathlib import Path

import msgspec
import onnx_ir as ir

from edge_mm_export.islands import NO_ISLANDS, Islands, with_islands
from edge_mm_export.linear import BlockWeights, Scales
from edge_mm_export.precision import Precision, find_precision
from edge_mm_export.storage import graph_bytes, save_graph
from edge_mm_export.subject import Subject
from edge_mm_export.vision import stored_vision
from edge_mm_runtime.bundle import (
    BundleManifest,
    DecoderGeometry,
    GraphSet,
    Provenance,
    write_manifest,
)
from edge_mm_runtime.hashes import files_sha256

_TOOLS = ("edge-mm", "torch", "transformers", "onnx", "onnxscript", "onnxruntime")
_RUNTIME_BYTES = 110 << 20  # Python, numpy, OpenCV and ONNX Runtime, before any graph

_LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE")
_NAMED_LICENCE = re.compile(r"\A---\n.*?^license: *([\w.-]+) *$.*?^---$", re.MULTILINE | re.DOTALL)
"""In the front matter of a model card on the Hugging Face hub."""


def write_graphs(
    folder: Path,
    subject: Subject,
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
    graphs = GraphSet(
        f"vision.{target}.onnx",
        f"decoder.{target}.onnx",
        precision,
        first_alone=stored.one_scale,
    )
    save_graph(stored_vision(vision, stored, islands.vision), folder / graphs.vision)
    spool = folder / ".constants"
    decoder = subject.draw_decoder(
        target, precision, scales=scales, quantised=quantised, spool=spool
    )
    save_graph(with_islands(decoder, islands.decoder), folder / graphs.decoder)
    spool.unlink(missing_ok=True)
    manifest = subject.manifest()
    manifest = msgspec.structs.replace(
        manifest,
        licence=_copy_licence(subject.folder, folder),
        provenance=_provenance(subject),
        graphs={target: graphs},
        memory_estimate_bytes=_memory(folder, graphs, manifest.decoder, stored),
    )
    (folder / "chat_template.jinja").write_text(manifest.prompt.template, encoding="utf-8")
    shutil.copy(subject.folder / "tokenizer.json", folder / "tokenizer.json")
    return write_manifest(folder, manifest)


def _provenance(subject: Subject) -> Provenance:
    recipe = subject.folder / "recipe.yaml"
    installed = {found.metadata["Name"]: found.version for found in metadata.distributions()}
    return Provenance(
        checkpoint_sha256=files_sha256(*subject.weight_files()),
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        tools={name: installed[name] for name in _TOOLS if name in installed},
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _copy_licence(checkpoint: Path, folder: Path) -> str:
    """The checkpoint's licence goes along; its name if one is known, else where to read it."""
    card = checkpoint / "README.md"
    found = _NAMED_LICENCE.match(card.read_text(encoding="utf-8")) if card.is_file() else None
    named = found[1] if found else None
    path = next((checkpoint / name for name in _LICENCES if (checkpoint / name).is_file()), None)
    if path is None:
        return named or "unspecified"
    text = path.read_text(encoding="utf-8")
    shutil.copy(path, folder / "LICENSE")
    apache = "Apache License" in text and "Version 2.0" in text
    return "Apache-2.0" if apache else named or "see LICENSE"


def _memory(folder: Path, graphs: GraphSet, geometry: DecoderGeometry, precision: Precision) -> int:
    """Peak of a process: runtime, graphs (file and unpacked weights at once), cache.

    It is measured on ONNX Runtime's CPU provider; `edge-mm build` measures what TensorRT needs.
    """
    vision, decoder = graph_bytes(folder / graphs.vision), graph_bytes(folder / graphs.decoder)
    value_bytes = precision.dtype.itemsize
    places = geometry.kv_heads * geometry.context * geometry.head_dim
    cache = 2 * geometry.layers * places * value_bytes
    unpacked = 2 * vision if precision.table == precision.activations else 3 * vision
    return _RUNTIME_BYTES + int(unpacked + 2 * decoder + cache)
