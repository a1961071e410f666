"""A machine with a GPU of straw: a bundle, its engines, and what reads them.

See `fake_cuda.py` for what this shows and what it cannot: numbers, order of calls, addresses and
lifetimes, but nothing of a GPU.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.engines import locate
from edge_mm_runtime.engines import runner as runner_module
from edge_mm_runtime.engines.device import Gpu
from edge_mm_runtime.engines.library import Library
from edge_mm_runtime.engines.manifest import (
    EngineManifest,
    Machine,
    Plan,
    engine_folder,
    graph_sha256,
    manifest_files,
)
from edge_mm_runtime.engines.profiles import decoder_sizes, plan_profiles, vision_sizes
from edge_mm_runtime.engines.runner import TensorrtRunner, open_engine
from tests.runtime.engines.exported import GEOMETRY, decoder
from tests.runtime.engines.fake_cuda import FakeCudart
from tests.runtime.engines.fake_tensorrt import (
    FakeTensorrt,
    ICudaEngine,
    Network,
    NewEngine,
    plan_of,
)

VOCAB = GEOMETRY.vocab_size
PROMPT = [7, 3, *range(VOCAB, VOCAB + 5), 11, 40]
_ORIN = Gpu("Orin", 87, "12.6")


class Device(SimpleNamespace):
    """A bundle with engines on a machine that has the GPU: bundle, cudart, trt, target."""

    def open(self, part: Any = "decoder") -> TensorrtRunner:
        return open_engine(self.bundle, part, self.target)

    @property
    def graph(self) -> Path:
        """The decoder's."""
        path: Path = self.bundle.path(self.bundle.graphs(self.target).decoder)
        return path


def make_device(
    make_bundle: Callable[..., Bundle],
    monkeypatch: pytest.MonkeyPatch,
    target: str = "tensorrt",
    engine: type[ICudaEngine] = NewEngine,
) -> Device:
    """This machine, with engines of the tiny exported decoder in their bundle."""
    bundle = make_bundle(target=target, decoder=_drawn(target), geometry=GEOMETRY)
    cudart = FakeCudart()
    trt = FakeTensorrt(cudart, engine)
    library = Library(trt, "tensorrt")
    monkeypatch.setattr(locate, "find_gpu", lambda: _ORIN)
    monkeypatch.setattr(locate, "choose_library", lambda gpu, cc: (library, 87))
    monkeypatch.setattr(runner_module, "import_cudart", lambda: cudart)
    _write_engines(bundle, target, Machine("Orin", 87, "tensorrt", trt.__version__, "12.6"))
    return Device(bundle=bundle, cudart=cudart, trt=trt, target=target)


@functools.cache
def _drawn(target: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        return decoder(target, Path(folder))


def _write_engines(bundle: Bundle, target: str, machine: Machine) -> Path:
    """Engines of a bundle as the builder leaves them, except for what is in the plans."""
    graphs = bundle.graphs(target)
    folder = engine_folder(bundle, graphs, machine)
    folder.mkdir(parents=True)
    sizes = {"vision": vision_sizes(), "decoder": decoder_sizes(GEOMETRY.context, 5, 13)}
    plans = {}
    for name, graph in (("vision", graphs.vision), ("decoder", graphs.decoder)):
        profiles = plan_profiles(Network(onnx.load(str(bundle.path(graph)))), sizes[name])
        data = plan_of(bundle.path(graph), profiles)
        (folder / f"{name}.engine").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        digest = graph_sha256(bundle, graph)
        plans[name] = Plan(f"{name}.engine", len(data), sha256, graph, digest, profiles, 1.0)
    manifest = EngineManifest(
        edge_mm="0.1.0", machine=machine, target=target, precision="fp16", plans=plans
    )
    for name, data in manifest_files(manifest).items():
        (folder / name).write_bytes(data)
    return folder


def picture(seed: int, rows: int = 5) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 1, (rows, GEOMETRY.hidden_size))
    return values.astype(np.float32)
