"""Which module of an exported model first leaves torch: asked when the gate does not hold.

Every module gets the input that torch's modules made before it at the graph's border: the vision
graph the pixels, the decoder torch's own picture rows. Inside a graph errors add up, so the first
layer of the decoder, or node of the vision graph, that is below the limit is where to look.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchVision
from edge_mm_export.decoder import residual_name
from edge_mm_export.precision import EXACT
from edge_mm_export.probe import Graphs, runnable
from edge_mm_export.verify import cosine
from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.decoder import decoder_inputs, open_decoder
from edge_mm_runtime.runner import OnnxRunner

LIMIT = 0.99
"""A module whose output has a lower cosine with torch's has drifted."""

_VISION = "vision "
_SHOWN = ".shown"

FloatArray = npt.NDArray[np.float32]


def first_drifted(
    model: EdgeMM,
    bundle: Bundle,
    target: str,
    pixel_values: FloatArray,
    ids: list[int],
    scratch: Path,
    exact: Bundle | None = None,
) -> str:
    """Name and cosine of the first module below `LIMIT`, else of the lowest one.

    `ids` is a prompt; `scratch` a folder for copies of graphs that show what is inside. With the
    bundle of the `exact` graphs a node of the vision graph is named, by which `--fp32-island`
    knows it.
    """
    found: list[tuple[str, float]] = []
    graphs = runnable(bundle, target, scratch)
    for name, value in _modules(model, bundle, target, graphs, pixel_values, ids, scratch):
        found.append((name, value))
        if value < LIMIT:
            break
    name, value = min(found, key=lambda item: item[1])
    if exact is not None and name.startswith(_VISION):
        whole = exact.path(exact.graphs(EXACT[0]).vision)
        name, value = _first_node(whole, graphs.vision, pixel_values, scratch) or (name, value)
    return f"{name} (cosine {value:.4f})"


def _modules(
    model: EdgeMM,
    bundle: Bundle,
    target: str,
    graphs: Graphs,
    pixel_values: FloatArray,
    ids: list[int],
    scratch: Path,
) -> Iterator[tuple[str, float]]:
    geometry = bundle.manifest.decoder
    expected = TorchVision(model).run({"pixel_values": pixel_values})
    with OnnxRunner(graphs.vision) as vision:
        for name, value in vision.run({"pixel_values": pixel_values}).items():
            yield f"{_VISION}{name}", _agreement(expected[name], value)

    image_embeds = expected["image_embeds"][0]
    names = [residual_name(layer) for layer in range(geometry.layers)]
    path = _showing(graphs.decoder, names, scratch / "residuals.onnx")
    with open_decoder(path, geometry, None, target) as decoder:
        outputs = decoder.run(decoder_inputs(target, 0, ids, image_embeds))
    for name, reference in _torch_decoder(model, image_embeds, ids).items():
        found = outputs.get(f"{name}{_SHOWN}", outputs.get(name))
        if found is not None:
            # The last layer of the graph carries its last position only.
            yield f"decoder {name}", _agreement(reference[:, -found.shape[1] :], found)


def _first_node(
    exact: Path, stored: Path, pixel_values: FloatArray, scratch: Path
) -> tuple[str, float] | None:
    """The first node of the exact vision graph whose value in the stored one is below `LIMIT`."""
    nodes = {
        str(output.name): f"{_VISION}node {node.name} ({node.op_type})"
        for node in ir.load(exact).graph
        for output in node.outputs
        if output.dtype == ir.DataType.FLOAT and not output.is_graph_output()
    }
    values = []
    for path in (exact, stored):
        with OnnxRunner(_showing(path, nodes, scratch / "nodes.onnx")) as runner:
            values.append(runner.run({"pixel_values": pixel_values}))
    for name, node in nodes.items():
        pair = [outputs.get(f"{name}{_SHOWN}") for outputs in values]
        if pair[0] is not None and pair[1] is not None:
            value = _agreement(pair[0], pair[1])
            if value < LIMIT:
                return node, value
    return None


def _agreement(expected: FloatArray, found: FloatArray) -> float:
    """Their cosine; 0 where values left the range of their type."""
    return cosine(expected, found) if np.isfinite(found).all() else 0.0


def _showing(path: Path, names: Collection[str], copy: Path) -> Path:
    """A copy of a graph with some of its values as further outputs in fp32, `_SHOWN` added."""
    model = ir.load(path)
    for node in list(model.graph):
        for value in node.outputs:
            if value.name in names:
                shown = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
                output = shown.outputs[0]
                output.name, output.dtype = f"{value.name}{_SHOWN}", ir.DataType.FLOAT
                output.shape = value.shape
                model.graph.append(shown)
                model.graph.outputs.append(output)
    ir.save(model, copy)
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
