"""Will the build fit? Told before it starts, with what would fit instead.

The peak of building one graph whose weights take W bytes, with P optimisation profiles:

    BASE        TensorRT's libraries, kernels and the CUDA context
  + 2 W         the parser's copy of the weights and the builder's
  + P W         the engine, which may hold the weights once for each profile
  + cache       keys and values of the whole context in fp16
  + activations
  + WORKSPACE   the least that kernels are given to try

and never less than the bundle's own memory_estimate_bytes, since what is built is to be run. The
graphs are built one after the other, so the peak of a bundle is that of its largest graph. What
memory is left above the peak goes to the workspace, up to 2 GiB.

Measured with TensorRT-RTX 1.7.1 on a machine without a GPU: a graph of 193 MiB of weights peaks at
3.3 W above the 0.24 GiB of the idle process, with one profile and with two; engines of two profiles
hold 1 to 1.8 W. BASE allows for the CUDA context and for full TensorRT's kernels: not measured on a
device. On a Jetson the GPU takes its memory from the same pool as the CPU.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.precision import BITS, offered

GIB = 1 << 30
BASE = GIB
LEAST_WORKSPACE = GIB // 4
MOST_WORKSPACE = 2 * GIB
PROFILES = {"vision": 1, "decoder": 2}

_ACTIVATION_BYTES = 32  # of a token and hidden unit: q, k, v, gate, up and their like in fp16
_PIXEL_BYTES = 512  # of a pixel in the first, widest layers


class Estimate(NamedTuple):
    """Bytes of building one graph; `running` is what the bundle says that it takes afterwards."""

    weights: int
    profiles: int
    cache: int
    activations: int
    running: int = 0

    @property
    def total(self) -> int:
        """The peak by the module's formula."""
        copies = (2 + self.profiles) * self.weights
        building = BASE + copies + self.cache + self.activations + LEAST_WORKSPACE
        return max(building, self.running)

    def scaled(self, weights: float = 1, context: float = 1) -> Estimate:
        """The same graph with so many times the weights or the context."""
        return Estimate(
            int(self.weights * weights),
            self.profiles,
            int(self.cache * context),
            int(self.activations * context),
            int(self.running * weights),
        )


def estimate(bundle: Bundle, weights: dict[str, int]) -> Estimate:
    """The graph that takes most; `weights` are the bytes of "vision" and "decoder" on disk."""
    image, decoder = bundle.manifest.image, bundle.manifest.decoder
    cache = 2 * 2 * decoder.layers * decoder.kv_heads * decoder.context * decoder.head_dim
    pixels = image.width * image.height * _PIXEL_BYTES
    tokens = decoder.context * (_ACTIVATION_BYTES * decoder.hidden_size + decoder.context)
    running = bundle.manifest.memory_estimate_bytes
    graphs = (
        Estimate(weights["vision"], PROFILES["vision"], 0, pixels, running),
        Estimate(weights["decoder"], PROFILES["decoder"], cache, tokens, running),
    )
    return max(graphs, key=lambda graph: graph.total)


def free_memory(path: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that programs may still take (Linux: MemAvailable), or None where nobody tells."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def check_memory(
    bundle: Bundle, target: str, peak: Estimate, compute_capability: int, free: int | None
) -> int:
    """Bytes of workspace that the builder may use; EngineError where the build will not fit.

    `free` None (nobody tells) lets the build try with the least workspace.
    """
    if free is None:
        return LEAST_WORKSPACE
    if peak.total <= free:
        return min(MOST_WORKSPACE, LEAST_WORKSPACE + free - peak.total)
    raise EngineError(
        f"building {bundle.folder} takes about {_gib(peak.total)} at its peak and {_gib(free)} "
        f"are free: {what_fits(bundle, target, peak, compute_capability, free)}; or close "
        "other programs, or raise --memory-limit if you know better"
    )


def what_fits(
    bundle: Bundle, target: str, peak: Estimate, compute_capability: int, free: int
) -> str:
    """A smaller precision or context whose build fits into `free` bytes."""
    ways = []
    bits = BITS.get(bundle.graphs(target).precision, BITS["fp16"])
    for name in offered(compute_capability, target):
        smaller = peak.scaled(weights=BITS[name] / bits)
        if BITS[name] < bits and smaller.total <= free:
            ways.append(f"export the checkpoint with --precision {name} ({_gib(smaller.total)})")
            break
    for parts in (2, 4, 8):
        shorter = peak.scaled(context=1 / parts)
        if shorter.total <= free:
            tokens = bundle.manifest.decoder.context // parts
            ways.append(f"take a model with a context of {tokens} tokens ({_gib(shorter.total)})")
            break
    return " or ".join(ways) or "no smaller precision or context fits, take a smaller model"


def check_disk(folder: Path, engine_bytes: int) -> None:
    """EngineError where the disk below `folder` has no room for the engines."""
    free = shutil.disk_usage(folder).free
    if engine_bytes > free:
        raise EngineError(
            f"the engines take about {_gib(engine_bytes)} on disk and {folder} has {_gib(free)} "
            "free: make room there"
        )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
