"""Which module of an exported model first leaves torch: asked when the gate does not hold.

Every module gets the input that torch's modules made before it at the graph's border: the vision
graph the pixels, the decoder torch's own picture rows. Inside the decoder errors add up, layer by
layer, so the first one below the limit is where to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchVision
from edge_mm_export.decoder import residual_name
from edge_mm_export.verify import cosine
from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.runner import OnnxRunner

LIMIT = 0.99
"""A module whose output has a lower cosine with torch's has drifted."""

FloatArray = npt.NDArray[np.float32]


def first_drifted(
    model: EdgeMM,
    bundle: Bundle,
    target: str,
    pixel_values: FloatArray,
    ids: list[int],
    scratch: Path,
) -> str:
    """Name and cosine of the first module below `LIMIT`, else of the lowest one.

    `ids` is a prompt; `scratch` a folder for a copy of the decoder that shows its residuals.
    """
    found: list[tuple[str, float]] = []
    for name, value in _modules(model, bundle, target, pixel_values, ids, scratch):
        found.append((name, value))
        if value < LIMIT:
            break
    name, value = min(found, key=lambda item: item[1])
    return f"{name} (cosine {value:.4f})"


def _modules(
    model: EdgeMM,
    bundle: Bundle,
    target: str,
    pixel_values: FloatArray,
    ids: list[int],
    scratch: Path,
) -> Iterator[tuple[str, float]]:
    graphs, geometry = bundle.graphs(target), bundle.manifest.decoder
    expected = TorchVision(model).run({"pixel_values": pixel_values})
    with OnnxRunner(bundle.path(graphs.vision)) as vision:
        for name, value in vision.run({"pixel_values": pixel_values}).items():
            yield f"vision {name}", cosine(expected[name], value)

    image_embeds = expected["image_embeds"][0]
    decoder_path = _with_residuals(bundle.path(graphs.decoder), geometry.layers, scratch)
    with open_decoder(decoder_path, geometry, None) as decoder:
        outputs = decoder.run(
            {
                "input_ids": np.array([ids], np.int64),
                "image_embeds": image_embeds,
                "seqlens_k": np.array([len(ids) - 1], np.int32),
                "total_sequence_length": np.array([len(ids)], np.int32),
            }
        )
    for name, reference in _torch_decoder(model, image_embeds, ids).items():
        if name in outputs:
            value = outputs[name]
            # The last layer of the graph carries its last position only.
            yield f"decoder {name}", cosine(reference[:, -value.shape[1] :], value)


def _with_residuals(path: Path, layers: int, scratch: Path) -> Path:
    """A copy of the decoder with the residual stream after every layer as further outputs."""
    graph_model = ir.load(path)
    values = {value.name: value for node in graph_model.graph for value in node.outputs}
    for layer in range(layers):
        value = values[residual_name(layer)]
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([1, None, None])
        graph_model.graph.outputs.append(value)
    copy = scratch / "residuals.onnx"
    ir.save(graph_model, copy)
    return copy


@torch.no_grad()
def _torch_decoder(
    model: EdgeMM, image_embeds: FloatArray, ids: list[int]
) -> Mapping[str, FloatArray]:
    """Residuals [1, S, D] by layer, then logits [1, V] and region_query [1, K], of one prompt."""
    seen: dict[str, FloatArray] = {}

    def keep(name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            seen[name] = value.numpy()

        return hook

    handles = [
        layer.register_forward_hook(keep(residual_name(i)))
        for i, layer in enumerate(model.lm.model.layers)
    ]
    try:
        memory = torch.from_numpy(image_embeds)[None]
        embeds = model.embed(torch.tensor([ids]), memory)
        hidden = model.hidden_states(embeds, image_memory=memory)[-1][:, -1]
    finally:
        for handle in handles:
            handle.remove()
    seen["logits"] = model.lm.lm_head(hidden).numpy()
    seen["region_query"] = model.region_query(hidden).numpy()
    return seen
