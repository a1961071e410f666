"""Where an exported model first leaves torch, and which of its parts need fp32 so that it does not.

Every module gets the input that torch's modules made before it at the graph's border: the vision
graph the pixels, the decoder torch's own picture rows. Inside a graph errors add up, so the first
layer of the decoder, or node of a graph, that is below the limit is where to look. Nodes are
compared with those of the same graph in fp32, so that what is found is due to 16 bits alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.cast import emulated, lowered, widened
from edge_mm_export.decoder import residual_name
from edge_mm_export.islands import Islands, decoder_parts, with_islands
from edge_mm_export.precision import EXACT, find_precision
from edge_mm_export.probe import Graphs, runnable
from edge_mm_export.storage import save_graph
from edge_mm_export.subject import Subject
from edge_mm_export.verify import cosine
from edge_mm_runtime.bundle import Bundle, DecoderGeometry
from edge_mm_runtime.decoder import decoder_inputs, open_decoder
from edge_mm_runtime.rope import rope_positions
from edge_mm_runtime.runner import Arrays, OnnxRunner

LIMIT = 0.99
"""A module whose output has a lower cosine with torch's has drifted."""

_VISION, _DECODER = "vision ", "decoder "
_SHOWN = ".shown"
_FLOAT = ir.DataType.FLOAT
_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_CACHED = ("Attention", "GroupQueryAttention", "TensorScatter")
"""Kernels that read or write the cache, whose type is fixed: they cannot be islands."""
_NOT_IN_TENSORRT = ("Attention",)
"""What TensorRT cannot compute in fp32."""

FloatArray = npt.NDArray[np.float32]
Run = Callable[[Path], Arrays]
"""Runs the graph in a file on a question, whatever outputs it has."""


@dataclass(frozen=True)
class Question:
    """What both graphs are given of a question, by torch."""

    pixel_values: FloatArray  # [1, 3, H, W]
    image_embeds: FloatArray  # [T, D]
    ids: list[int]
    geometry: DecoderGeometry
    target: str

    def look(self, path: Path) -> Arrays:
        """Run a vision graph."""
        with OnnxRunner(path) as vision:
            return vision.run({"pixel_values": self.pixel_values})

    def read(self, path: Path) -> Arrays:
        """Run a decoder, all ids in one pass."""
        inputs = decoder_inputs(self.target, 0, self.ids, self.image_embeds)
        if self.geometry.rope_grid is not None:
            inputs["rope_positions"] = rope_positions(
                self.ids, self.geometry.vocab_size, *self.geometry.rope_grid
            )
        with open_decoder(path, self.geometry, None, self.target) as decoder:
            return decoder.run(inputs)


def ask_torch(
    subject: Subject, bundle: Bundle, target: str, pixel_values: FloatArray, ids: list[int]
) -> tuple[Question, Mapping[str, FloatArray]]:
    """A question for the graphs of a bundle, and what torch's vision graph gives for it."""
    seen = subject.torch_vision().run({"pixel_values": pixel_values})
    geometry = bundle.manifest.decoder
    return Question(pixel_values, seen["image_embeds"][0], ids, geometry, target), seen


def first_drifted(
    subject: Subject,
    bundle: Bundle,
    target: str,
    pixel_values: FloatArray,
    ids: list[int],
    scratch: Path,
    exact: Bundle | None = None,
) -> str:
    """Name and cosine of the first module below `LIMIT`, else of the lowest one.

    `ids` is a prompt; `scratch` a folder for copies of graphs that show what is inside. With the
    bundle of the `exact` graphs a node of the vision graph is named; of a decoder that computes in
    16 bits, a part.
    """
    question, seen = ask_torch(subject, bundle, target, pixel_values, ids)
    found: list[tuple[str, float]] = []
    graphs = runnable(bundle, target, scratch)
    for name, value in _modules(subject, question, seen, graphs, scratch):
        found.append((name, value))
        if value < LIMIT:
            break
    name, value = min(found, key=lambda item: item[1])
    part = None
    if name.startswith(_VISION) and exact is not None:
        whole = ir.load(exact.path(exact.graphs(EXACT[0]).vision))
        part = _first_node(whole, ir.load(graphs.vision), question.look, scratch)
    stored = bundle.graphs(target)
    halves = find_precision(target, stored.precision)[1].halves
    if name.startswith(_DECODER) and halves:
        part = _first_part(ir.load(bundle.path(stored.decoder)), question, scratch)
    name, value = part or (name, value)
    return f"{name} (cosine {value:.4f})"


def find_islands(
    question: Question,
    vision: ir.Model,
    decoder: ir.Model,
    dtype: ir.DataType,
    kept: Islands,
    scratch: Path,
    most: int,
) -> Islands | None:
    """`kept` and what has to be fp32 besides, so that no node drifts; None if nothing helps.

    `vision` is the traced fp32 graph, `decoder` one of `dtype` without islands. `most` bounds the
    number of islands in both graphs: the first part that drifts is added, one after the other. If
    it is one already, it is its inputs that were rounded too far: what makes them is added.
    """
    if len(kept.vision) + len(kept.decoder) >= most:
        return None
    fixed = _NOT_IN_TENSORRT if question.target.startswith("tensorrt") else ()
    seen = _grown(
        kept.vision,
        most - len(kept.decoder),
        vision,
        lambda names: lowered(vision, dtype, names),
        _part_of({str(node.name): [node] for node in vision.graph}, (_FLOAT,), fixed),
        question.look,
        scratch,
    )
    said = _grown(
        kept.decoder,
        most - len(seen),
        _in_fp32(decoder),
        lambda names: with_islands(decoder, names),
        _part_of(decoder_parts(decoder), _HALVES, _CACHED),
        question.read,
        scratch,
    )
    found = Islands(seen, said)
    return None if found == kept else found


def _part_of(
    parts: Mapping[str, list[ir.Node]], rounded: Collection[ir.DataType], fixed: Collection[str]
) -> dict[str, str]:
    """By node that gives a `rounded` type and is not of a `fixed` operator: the part it is in."""
    return {
        str(node.name): name
        for name, nodes in parts.items()
        for node in nodes
        if node.op_type not in fixed and any(value.dtype in rounded for value in node.outputs)
    }


def _grown(
    kept: tuple[str, ...],
    most: int,
    exact: ir.Model,
    draw: Callable[[tuple[str, ...]], ir.Model],
    part_of: Mapping[str, str],
    run: Run,
    scratch: Path,
) -> tuple[str, ...]:
    """`kept` and the parts of one graph that must be islands besides, up to `most` in all."""
    expected = _values(exact, _floats(exact), run, scratch)
    while len(kept) < most:
        drifted = _first(exact, expected, emulated(draw(kept)), run, scratch)
        part = drifted and _next_island(drifted.node, part_of, kept)
        if part is None:
            break
        kept = (*kept, part)
    return kept


def _next_island(node: ir.Node, part_of: Mapping[str, str], kept: Collection[str]) -> str | None:
    """The part of a node, or if that is kept the nearest one before it that is not.

    What is no part, for it is fp32 or must not be, ends the way back.
    """
    waiting = [node]
    for node in waiting:  # grows: breadth first
        part = part_of.get(str(node.name))
        if part is None:
            continue
        if part not in kept:
            return part
        before = (value.producer() for value in node.inputs if value and value.dtype == _FLOAT)
        waiting += [made for made in before if made is not None and made not in waiting]
    return None


class _Drifted(NamedTuple):
    node: ir.Node  # of the exact graph
    cosine: float


def _first(
    exact: ir.Model, expected: Mapping[str, FloatArray], stored: ir.Model, run: Run, scratch: Path
) -> _Drifted | None:
    """The first node of a graph whose values in the stored one are below `LIMIT`."""
    found = _values(stored, expected.keys(), run, scratch)
    for node in exact.graph:
        for output in node.outputs:
            name = str(output.name)
            if name in expected and name in found and np.isfinite(expected[name]).all():
                value = _agreement(expected[name], found[name])
                if value < LIMIT:
                    return _Drifted(node, value)
    return None


def _first_node(
    exact: ir.Model, stored: ir.Model, run: Run, scratch: Path
) -> tuple[str, float] | None:
    """The first node of a vision graph that drifted, in words."""
    expected = _values(exact, _floats(exact), run, scratch)
    found = _first(exact, expected, stored, run, scratch)
    if found is None:
        return None
    return f"{_VISION}node {found.node.name} ({found.node.op_type})", found.cosine


def _first_part(decoder: ir.Model, question: Question, scratch: Path) -> tuple[str, float] | None:
    """The first part of a 16-bit decoder that drifted because of these 16 bits, in words."""
    exact = _in_fp32(decoder)
    expected = _values(exact, _floats(exact), question.read, scratch)
    found = _first(exact, expected, emulated(decoder), question.read, scratch)
    if found is None:
        return None
    names = {node.name: name for name, nodes in decoder_parts(decoder).items() for node in nodes}
    return f"{_DECODER}{names[found.node.name]}", found.cosine


def _in_fp32(decoder: ir.Model) -> ir.Model:
    """A 16-bit decoder that rounds nothing between its constants and its outputs."""
    return widened(decoder, {str(node.name) for node in decoder.graph})


def _floats(model: ir.Model) -> list[str]:
    """The names of the fp32 values inside a graph that come of its inputs, not of constants alone.

    Dequantised weights would be several times what flows.
    """
    flows: set[ir.Value | None] = set(model.graph.inputs)
    for node in model.graph:
        if not flows.isdisjoint(node.inputs):
            flows.update(node.outputs)
    return [
        str(output.name)
        for node in model.graph
        for output in node.outputs
        if output in flows and output.dtype == _FLOAT and not output.is_graph_output()
    ]


def _modules(
    subject: Subject,
    question: Question,
    seen: Mapping[str, FloatArray],
    graphs: Graphs,
    scratch: Path,
) -> Iterator[tuple[str, float]]:
    for name, value in question.look(graphs.vision).items():
        yield f"{_VISION}{name}", _agreement(seen[name], value)

    names = [residual_name(layer) for layer in range(question.geometry.layers)]
    decoder = ir.load(graphs.decoder)
    outputs = _values(decoder, names, question.read, scratch)
    expected = subject.residuals(question.pixel_values, question.image_embeds, question.ids)
    for name, reference in expected.items():
        found = outputs.get(name)
        if found is not None:
            # The last layer of the graph carries its last position only.
            yield f"{_DECODER}{name}", _agreement(reference[:, -found.shape[1] :], found)


def _agreement(expected: FloatArray, found: FloatArray) -> float:
    """Their cosine; 0 where values left the range of their type."""
    return cosine(expected, found) if np.isfinite(found).all() else 0.0


def _values(model: ir.Model, names: Collection[str], run: Run, scratch: Path) -> Arrays:
    """Run a graph: its outputs, and those of its values that are named, in fp32."""
    path = scratch / "shown.onnx"
    save_graph(_showing(model, names), path)
    return {name.removesuffix(_SHOWN): value for name, value in run(path).items()}


def _showing(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy of a graph with some of its values as further outputs in fp32, `_SHOWN` added."""
    model = model.clone()
    wanted = set(names)
    for node in list(model.graph):
        for value in node.outputs:
            if value.name in wanted:
                shown = ir.node("Cast", [value], {"to": ir.DataType.FLOAT})
                output = shown.outputs[0]
                output.name, output.dtype = f"{value.name}{_SHOWN}", ir.DataType.FLOAT
                output.shape = value.shape
                model.graph.append(shown)
                model.graph.outputs.append(output)
    return model
