"""Graphs on OpenVINO: another engine for the CPU, which reads the bundle's `cpu` graphs.

It computes in bf16 where the processor has products of it (AMX, AVX-512 BF16), in fp32 elsewhere.
The picture is its strength. The decoder stays on ONNX Runtime: a pass of one id takes OpenVINO 1.75
times as long (SmolLM2-135M, int8), and the first pass of each new length pays for making kernels.

`import openvino` reports itself over the network. Here it is imported without its telemetry.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.extras import require
from edge_mm_runtime.runner import (
    Array,
    Arrays,
    Runner,
    TensorSpec,
    available_cores,
    check_input,
    check_names,
)

TARGET = "cpu"  # whose graphs are read
_TELEMETRY = "openvino_telemetry"


class OpenVinoRunner:
    """A graph without a state on OpenVINO's CPU plugin.

    BundleError where OpenVINO cannot read it.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._openvino = openvino = import_openvino()
        self.path = path
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads or available_cores(),
            "ENABLE_CPU_PINNING": False,  # others work on these cores too
        }
        if _saturates():  # a w8a8 tower takes the same time there without 8-bit products
            settings["LP_TRANSFORMS_MODE"] = False
        try:
            compiled = openvino.Core().compile_model(path, "CPU", settings)
        except RuntimeError as error:
            raise BundleError(
                f"openvino {openvino.__version__} refuses {path}: {_reason(error)}"
            ) from None
        self.inputs = {port.get_any_name(): _spec(port) for port in compiled.inputs}
        self.outputs = {port.get_any_name(): _spec(port) for port in compiled.outputs}
        self._request: Any = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once; the outputs are the caller's own."""
        check_names(self, inputs, closed=self._request is None)
        for name, array in inputs.items():
            check_input(self, name, array)
        request = self._request
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in given.items():
            request.set_tensor(name, self._openvino.Tensor(array, shared_memory=True))
        request.infer()
        return {name: np.array(request.get_tensor(name).data) for name in self.outputs}

    def close(self) -> None:
        """Give the engine's memory back."""
        self._request = None

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_openvino(
    bundle: Bundle, part: Literal["vision", "decoder"], target: str, threads: int | None = None
) -> Runner:
    """The vision graph of a bundle on OpenVINO, the decoder on ONNX Runtime.

    BundleError unless the target is `cpu`, or where OpenVINO cannot read the graph.
    """
    import_openvino()  # a missing one is told before a graph is loaded
    graphs = bundle.graphs(target)
    if target != TARGET:
        raise BundleError(
            f"device openvino reads graphs of target {TARGET}, not of {target}: export with "
            f"--target {TARGET}"
        )
    if part == "vision":
        return OpenVinoRunner(bundle.path(graphs.vision), threads)
    return open_decoder(bundle.path(graphs.decoder), bundle.manifest.decoder, threads)


def import_openvino() -> ModuleType:
    """OpenVINO, or MissingExtraError naming the extra."""
    with silent():
        return require("openvino", "openvino")


@contextmanager
def silent() -> Iterator[None]:
    """What is imported meanwhile does not report itself.

    OpenVINO's converter sends an event when it is imported, unless its telemetry cannot be: then it
    takes a stub of its own. So there is none. An OpenVINO that the program has imported before is
    left as it is.
    """
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def _saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether OpenVINO's sums of 8-bit products saturate: on x86 without VNNI, as far as is known.

    A SigLIP-B/16 of our w8a8 had a cosine of 0.94 there instead of 0.9998.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    known = cpuinfo.read_text().split() if cpuinfo.is_file() else []
    return "avx512_vnni" not in known and "avx_vnni" not in known


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if n.is_dynamic else n.get_length() for n in port.partial_shape)
    return TensorSpec(port.element_type.to_dtype().type, shape)


def _reason(error: RuntimeError) -> str:
    """The last line of OpenVINO's message; before it come the places in its source."""
    return str(error).strip().splitlines()[-1].lstrip("- ")
