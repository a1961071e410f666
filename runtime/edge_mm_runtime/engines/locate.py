"""The engines of a bundle that run on this machine, or what keeps them from it.

Everything that engine.json can tell is checked before TensorRT reads a plan. Of engines that do
not fit, those that differ least are told about: after an update of JetPack that is the TensorRT
version, after an export the ONNX hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from edge_mm_runtime.bundle import BUILT_ON_DEVICE, Bundle
from edge_mm_runtime.engines.device import find_gpu
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library, choose_library
from edge_mm_runtime.engines.manifest import (
    ENGINE_MANIFEST,
    EngineManifest,
    Machine,
    check_engine,
    differences,
    load_engine_manifest,
)

Part = Literal["vision", "decoder"]


class Found(NamedTuple):
    """Engines that fit this machine, and the TensorRT that reads them."""

    folder: Path
    manifest: EngineManifest
    library: Library

    def plan(self, part: Part) -> Path:
        """The engine file of a part."""
        return self.folder / self.manifest.plans[part].file


def find_engines(
    bundle: Bundle, target: str | None = None, parts: tuple[Part, ...] = ("vision", "decoder")
) -> Found:
    """The engines of a target (None: of any) for this GPU and TensorRT; the files of `parts` whole.

    EngineError says what is missing, or exactly what differs, and which command mends it.
    """
    gpu = find_gpu()
    if gpu is None:
        raise EngineError(
            "no usable NVIDIA GPU (libcuda.so.1) on this machine: TensorRT engines run on the "
            "device that they are built for; here the CPU answers"
        )
    library, _ = choose_library(gpu, None)
    machine = Machine(gpu.name, gpu.compute_capability, library.flavour, library.version, gpu.cuda)
    folder = _nearest(bundle, target, machine)
    manifest = check_engine(folder, bundle, machine, parts=parts)
    return Found(folder, manifest, library)


def _nearest(bundle: Bundle, target: str | None, machine: Machine) -> Path:
    """The folder of engines that differ least from what this machine and bundle need."""
    again = f"run `edge-mm build {bundle.folder}` on this machine"
    found: list[tuple[int, Path]] = []
    others: set[str] = set()
    damage: EngineError | None = None
    for path in sorted((bundle.folder / BUILT_ON_DEVICE).glob(f"*/{ENGINE_MANIFEST}")):
        try:
            manifest = load_engine_manifest(path.parent)
        except EngineError as error:
            damage = error
            continue
        if target not in (None, manifest.target):
            others.add(manifest.target)
            continue
        found.append((len(differences(manifest, bundle, machine)), path.parent))
    if found:
        return min(found)[1]
    if damage is not None:
        raise damage
    wanted = "" if target is None else f" of target {target}"
    have = f" (it has engines of {', '.join(sorted(others))})" if others else ""
    raise EngineError(f"{bundle.folder} has no TensorRT engines{wanted}{have}: {again}")
