"""From a bundle to its engines: what `edge-mm build` does.

Everything that can be refused is refused before the first graph is parsed. The engines appear
under their name at once, when all of them are whole.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from edge_mm_runtime.bundle import Bundle, GraphSet
from edge_mm_runtime.engines.device import Gpu, find_gpu
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library, choose_library, choose_target
from edge_mm_runtime.engines.manifest import (
    EngineManifest,
    Machine,
    Plan,
    check_engine,
    engine_folder,
    graph_files,
    graph_sha256,
    manifest_files,
)
from edge_mm_runtime.engines.memory import (
    PROFILES,
    check_disk,
    check_memory,
    estimate,
    free_memory,
)
from edge_mm_runtime.engines.plan import Options, build_plan
from edge_mm_runtime.engines.precision import check_precision
from edge_mm_runtime.engines.profiles import Sizes, decoder_sizes, vision_sizes
from edge_mm_runtime.engines.progress import Show

_TEXT_TOKENS = 32  # of a usual question and its template, beside the picture


class Built(NamedTuple):
    """Engines on disk; `fresh` is False where they were there already."""

    folder: Path
    manifest: EngineManifest
    fresh: bool


def build_engines(
    bundle: Bundle,
    *,
    compute_capability: int | None = None,
    memory_limit_bytes: int | None = None,
    show: Show = lambda line: None,
) -> Built:
    """Build the TensorRT engines of a bundle, for the GPU here or for a `compute_capability`.

    memory_limit_bytes  counts as the free memory; None: what the machine has free
    show                is called with a line of progress several times a second

    EngineError and MissingExtraError say what is missing or refused. A KeyboardInterrupt stops the
    build and leaves nothing behind.
    """
    gpu = find_gpu()
    library, capability = choose_library(gpu, compute_capability)
    machine = _machine(gpu, library, capability)
    target = choose_target(bundle, library)
    graphs = bundle.graphs(target)
    check_precision([graphs.precision], capability, target, f"{bundle.folder} ({target})")
    folder = engine_folder(bundle, graphs, machine)
    found = _whole(folder, bundle, machine)
    if found:
        return Built(folder, found, False)
    workspace = _preflight(bundle, target, capability, memory_limit_bytes)
    engines = folder.parent
    _make(engines)
    timing = engines / f".timing-sm{capability}-trt{library.version}.cache"
    options = Options(library, target, capability, workspace, timing, show)
    with tempfile.TemporaryDirectory(dir=engines, prefix=".building-") as temporary:
        fresh = Path(temporary) / folder.name
        fresh.mkdir()
        manifest = EngineManifest(
            edge_mm=metadata.version("edge-mm"),
            machine=machine,
            target=target,
            precision=graphs.precision,
            plans={
                name: _build(bundle, name, graph, sizes, fresh, options)
                for name, graph, sizes in _graphs(bundle, graphs)
            },
        )
        for name, data in manifest_files(manifest).items():
            write(fresh / name, data)
        if folder.exists():  # damaged, or of an older edge-mm
            folder.rename(Path(temporary) / "replaced")
        fresh.rename(folder)
    return Built(folder, manifest, True)


def write(path: Path, data: Any) -> None:
    """Write a buffer; EngineError when the disk is full."""
    try:
        with path.open("wb") as file:
            file.write(data)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise EngineError(f"cannot write {path}: {error.strerror}") from None
        raise EngineError(
            f"the disk is full: {path.name} takes {memoryview(data).nbytes / 1e6:.0f} MB, "
            f"make room for it in {path.parent}"
        ) from None


def _machine(gpu: Gpu | None, library: Library, capability: int) -> Machine:
    if gpu and gpu.compute_capability == capability:
        return Machine(gpu.name, capability, library.flavour, library.version, gpu.cuda)
    return Machine(
        f"ahead of time for SM{capability}", capability, library.flavour, library.version
    )


def _graphs(bundle: Bundle, graphs: GraphSet) -> tuple[tuple[str, str, dict[str, Sizes]], ...]:
    """Name, path and profile sizes of each graph."""
    images = bundle.manifest.prompt.image_token_count
    context = bundle.manifest.decoder.context
    return (
        ("vision", graphs.vision, vision_sizes()),
        ("decoder", graphs.decoder, decoder_sizes(context, images, images + _TEXT_TOKENS)),
    )


def _preflight(bundle: Bundle, target: str, capability: int, memory_limit_bytes: int | None) -> int:
    """Bytes of workspace; EngineError where memory or disk do not suffice."""
    graphs = bundle.graphs(target)
    weights = {
        name: sum(size for _, size, _ in graph_files(bundle, graph))
        for name, graph in (("vision", graphs.vision), ("decoder", graphs.decoder))
    }
    free = free_memory() if memory_limit_bytes is None else memory_limit_bytes
    workspace = check_memory(bundle, target, estimate(bundle, weights), capability, free)
    check_disk(bundle.folder, sum(PROFILES[name] * size for name, size in weights.items()))
    return workspace


def _whole(folder: Path, bundle: Bundle, machine: Machine) -> EngineManifest | None:
    """Engines that were built before and are whole."""
    try:
        return check_engine(folder, bundle, machine)
    except EngineError:  # missing or damaged: to be built
        return None


def _make(engines: Path) -> None:
    try:
        engines.mkdir(exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"cannot make {engines}: {error.strerror}: copy the bundle to a folder of yours"
        ) from None


def _build(
    bundle: Bundle, name: str, graph: str, sizes: dict[str, Sizes], folder: Path, options: Options
) -> Plan:
    """Build one graph and write its plan."""
    started = time.monotonic()
    plan, profiles = build_plan(bundle.path(graph), name, sizes, options)
    file = f"{name}.engine"
    write(folder / file, plan)
    return Plan(
        file=file,
        bytes=plan.nbytes,
        sha256=hashlib.sha256(plan).hexdigest(),
        onnx=graph,
        onnx_sha256=graph_sha256(bundle, graph),
        profiles=profiles,
        build_s=round(time.monotonic() - started, 2),
    )
