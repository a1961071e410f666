"""Which TensorRT builds: the full one on the device, or TensorRT-RTX, also ahead of time.

What a version can do is asked of its Python module (hasattr), not read from its number: JetPack 6
brings 10.3, JetPack 7 brings 10.16, PyPI brings 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.engines.device import JETSONS, Gpu
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.errors import MissingExtraError
from edge_mm_runtime.extras import require

Flavour = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    module: Any
    flavour: Flavour

    @property
    def version(self) -> str:
        """For example "10.3.0"."""
        return str(self.module.__version__)

    def __str__(self) -> str:
        name = "TensorRT" if self.flavour == "tensorrt" else "TensorRT-RTX"
        return f"{name} {self.version}"


def choose_library(gpu: Gpu | None, compute_capability: int | None) -> tuple[Library, int]:
    """The TensorRT for a compute capability (None: the GPU's), and that capability.

    Full TensorRT builds only for the GPU that it runs on and is preferred there. Anything else is
    built ahead of time by TensorRT-RTX. EngineError or MissingExtraError say what is missing.
    """
    here = gpu.compute_capability if gpu else None
    wanted = here if compute_capability is None else compute_capability
    if wanted in JETSONS and wanted != here:
        raise EngineError(
            f"SM{wanted} is a {JETSONS[wanted]}: its engines cannot be built on another machine; "
            "copy the bundle to the Jetson and run `edge-mm build` there, with JetPack's TensorRT"
        )
    if wanted is None:
        raise EngineError(
            "no usable NVIDIA GPU (libcuda.so.1) on this machine: build on the device, or ahead of "
            "time for an RTX GPU with --compute-capability, e.g. 89"
        )
    library = _installed(gpu if wanted == here else None)
    check_capability(library, wanted)
    return library, wanted


def check_capability(library: Library, compute_capability: int) -> None:
    """EngineError where TensorRT-RTX has no kernels for a compute capability."""
    if library.flavour == "tensorrt":
        return
    members = library.module.ComputeCapability.__members__
    known = sorted(int(name[2:]) for name in members if name.startswith("SM"))
    if compute_capability not in known:
        raise EngineError(
            f"{library} builds for SM{', '.join(map(str, known))} and not for "
            f"SM{compute_capability}: build on that device with TensorRT (edge-mm[gpu])"
        )


def choose_target(bundle: Bundle, library: Library) -> str:
    """The target of the bundle whose graphs this TensorRT reads, the newer one first."""
    targets = ["tensorrt-10.3"]  # primitive operators only, so a newer parser reads it too
    # TensorScatter in place came with this layer, in TensorRT 10.15.
    if hasattr(library.module.INetworkDefinition, "add_kv_cache_update"):
        targets.insert(0, "tensorrt")
    for target in targets:
        if target in bundle.manifest.graphs:
            return target
    have = ", ".join(sorted(bundle.manifest.graphs)) or "none"
    raise EngineError(
        f"{bundle.folder} has no graphs that {library} reads, it has: {have}; "
        f"export the checkpoint again with --target {targets[0]}"
    )


def _installed(gpu: Gpu | None) -> Library:
    """The installed TensorRT; only where there is a `gpu` may it be the full one."""
    if gpu is None:
        return Library(require("tensorrt_rtx", "rtx"), "tensorrt_rtx")
    try:
        return Library(require("tensorrt", "gpu"), "tensorrt")
    except MissingExtraError as error:
        if gpu.compute_capability in JETSONS:
            raise EngineError(
                f"tensorrt is not importable on this {JETSONS[gpu.compute_capability]} ({error}): "
                "JetPack brings it, so make the environment with "
                "`python3 -m venv --system-site-packages`"
            ) from None
        try:
            return Library(require("tensorrt_rtx", "rtx"), "tensorrt_rtx")
        except MissingExtraError:
            raise error from None
