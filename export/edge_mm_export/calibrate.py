"""How large the inputs of a decoder's linears get: the static scales of w8a8 and fp8.

The exact graphs answer real questions while the input of every linear is watched. The largest
absolute value would make a scale that one rare outlier spoils, so by default the range is the
99.99th percentile, and what is beyond it is clipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edge_mm_export.islands import linear_name
from edge_mm_export.precision import EXACT, Precision
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.quantise import FP8_LARGEST, INT8_LARGEST
from edge_mm_export.samples import Sample
from edge_mm_export.storage import save_graph
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.runner import Array, Arrays, Runner, WrappedRunner

PERCENTILE = 99.99

_SEEN = "input of "  # then the name of a linear: an output that the calibrated graph has besides
_LEAST, _GREATEST, _STEPS = -40, 40, 16  # octaves that are counted, and counts an octave

FloatArray = npt.NDArray[np.float32]


def measure_ranges(
    bundle: Path,
    samples: Iterable[Sample],
    scratch: Path,
    percentile: float | None = PERCENTILE,
) -> dict[str, float]:
    """Ask the samples of the exact graphs in `bundle`: by linear, the range of its input.

    The range is a percentile of absolute values (4 % too large at most), or with None the largest.
    `scratch` is a folder for a copy of the decoder.
    """
    target, _ = EXACT
    opened = load_bundle(bundle, verify="size")
    path = scratch / "watched.onnx"
    save_graph(watched(ir.load(opened.path(opened.graphs(target).decoder))), path)
    counter = _Counter(open_decoder(path, opened.manifest.decoder, None, target))
    trace_all(ProbedSession(bundle, decoder=counter, target=target), samples)
    return counter.ranges(percentile)


def activation_scales(ranges: Mapping[str, float], precision: Precision) -> dict[str, float]:
    """By linear, what one step of a quantised input is worth: its range is the largest value."""
    largest = FP8_LARGEST if precision.weights == "fp8" else INT8_LARGEST
    return {name: (value or largest) / largest for name, value in ranges.items()}


def watched(model: ir.Model) -> ir.Model:
    """A copy of an fp32 decoder that also gives the input of every linear."""
    model = model.clone()
    for node in list(model.graph):
        name = linear_name(node)
        if name is None or name == "region_query":  # the box head stays fp32
            continue
        read = node.inputs[0]
        assert read is not None
        seen = ir.node("Identity", [read])
        seen.outputs[0].name = f"{_SEEN}{name}"
        seen.outputs[0].dtype, seen.outputs[0].shape = ir.DataType.FLOAT, read.shape
        model.graph.append(seen)
        model.graph.outputs.append(seen.outputs[0])
    return model


class _Counter(WrappedRunner):
    """The runner of a watched decoder: passes its own outputs on and counts the others."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.outputs = {k: v for k, v in runner.outputs.items() if not k.startswith(_SEEN)}
        self._largest: dict[str, float] = {}
        self._counts: dict[str, npt.NDArray[np.int64]] = {}

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        outputs = super().run(inputs)
        for name, value in outputs.items():
            if name.startswith(_SEEN):
                self._count(name.removeprefix(_SEEN), np.abs(value))
        return {name: outputs[name] for name in self.outputs}

    def ranges(self, percentile: float | None) -> dict[str, float]:
        """By linear: the percentile of what was counted, or the largest."""
        if percentile is None:
            return dict(self._largest)
        return {
            name: min(_percentile(counts, percentile), self._largest[name])
            for name, counts in self._counts.items()
        }

    def _count(self, name: str, value: FloatArray) -> None:
        self._largest[name] = max(self._largest.get(name, 0.0), float(value.max()))
        octaves = np.log2(np.maximum(value, 2.0**_LEAST)).clip(_LEAST, _GREATEST)
        bins = (_GREATEST - _LEAST) * _STEPS
        counts, _ = np.histogram(octaves, bins, (_LEAST, _GREATEST))
        self._counts[name] = self._counts.get(name, 0) + counts


def _percentile(counts: npt.NDArray[np.int64], percentile: float) -> float:
    """Upper edge of the bin that the percentile falls in."""
    index = int(np.searchsorted(counts.cumsum(), counts.sum() * percentile / 100))
    return float(2.0 ** (_LEAST + (index + 1) / _STEPS))
