"""`edge-mm doctor`: what this machine has, what is missing, and what would run where."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, NamedTuple

from edge_mm_runtime.errors import EdgeMMError

if TYPE_CHECKING:
    from edge_mm_runtime.bundle import Bundle

BASE = ("numpy", "msgspec", "tokenizers", "llguidance", "minijinja")
ENGINES = {
    "onnxruntime": "cpu",
    "cv2": "cpu",
    "tensorrt": "gpu",
    "cuda": "gpu",
    "tensorrt_rtx": "rtx",
    "openvino": "openvino",
}
NEEDED = ("onnxruntime", "cv2")
GIB = 1 << 30


class Finding(NamedTuple):
    """One line of the report; `good` is False where it keeps the machine from answering."""

    name: str
    what: str
    good: bool = True


def main(argv: list[str]) -> int:
    """Print the report; 0 when this machine can answer, 1 when it cannot."""
    parser = argparse.ArgumentParser(
        prog="edge-mm doctor",
        description="Show what this machine has, what is missing, and what would run where.",
    )
    parser.add_argument("--bundle", default="default", help="bundle folder (default: the shipped)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    findings = [*_machine(), *_cameras(), *_packages(), *_bundle(args.bundle)]
    healthy = all(item.good for item in findings)
    if args.json:
        found = [item._asdict() for item in findings]
        print(json.dumps({"ready": healthy, "findings": found}))
        return 0 if healthy else 1
    for item in findings:
        print(f"{item.name:<13} {item.what}")
    print("ready" if healthy else "not ready: see above")
    return 0 if healthy else 1


def _machine() -> Iterator[Finding]:
    from edge_mm_runtime import board
    from edge_mm_runtime.engines.device import find_gpu
    from edge_mm_runtime.runner import available_cores

    yield Finding("edge-mm", _version("edge-mm"))
    yield Finding("python", f"{platform.python_version()} on {platform.system()}")
    name = board.model()
    yield Finding("board", f"{name}, {platform.machine()}" if name else platform.machine())
    jetpack = board.jetson_linux()
    if jetpack:
        yield Finding("jetpack", jetpack)
    yield Finding("cores", str(available_cores()))
    memory = board.memory()
    if memory:
        free = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
        yield Finding("memory", free)
    gpu = find_gpu()
    yield Finding(
        "gpu",
        "no NVIDIA driver (libcuda.so.1): the CPU answers"
        if gpu is None
        else f"{gpu.name}, SM{gpu.compute_capability}, CUDA {gpu.cuda}",
    )


def _cameras() -> Iterator[Finding]:
    from edge_mm_runtime import board

    found = board.cameras()
    for device, name in found:
        readable = os.access(device, os.R_OK)
        yield Finding(
            "camera",
            f"{device} {name}" + ("" if readable else ": may not be read; add the user to 'video'"),
        )
    if not found:
        yield Finding("camera", "none at /dev/video*; videos, pictures and streams work")


def _packages() -> Iterator[Finding]:
    from edge_mm_runtime.openvino import silent

    for name in BASE:
        yield Finding(name, _version(name))
    for name, extra in ENGINES.items():
        try:
            with silent():
                module = importlib.import_module(name)
        except ImportError as error:
            why = "missing" if isinstance(error, ModuleNotFoundError) else f"broken ({error})"
            needed = name in NEEDED
            mend = f"pip install 'edge-mm[{extra}]'" if needed else f"optional, edge-mm[{extra}]"
            yield Finding(name, f"{why}: {mend}", not needed)
            continue
        version = getattr(module, "__version__", None) or _version(f"{name}-bindings")
        yield Finding(name, " ".join([version, *_abilities(name, module)]))


def _abilities(name: str, module: object) -> list[str]:
    """What decides which sources and devices an installed package serves."""
    if name == "onnxruntime":
        return list(module.get_available_providers())  # type: ignore[attr-defined]
    if name == "cv2":
        from edge_mm_runtime.sources.capture import has_gstreamer

        return ["with GStreamer" if has_gstreamer(module) else "without GStreamer: no CSI cameras"]
    return []


def _bundle(spec: str) -> Iterator[Finding]:
    from edge_mm_runtime.bundle import load_bundle

    try:
        bundle = load_bundle(spec)
    except EdgeMMError as error:
        yield Finding("bundle", str(error), False)
        return
    manifest = bundle.manifest
    size = sum(entry.bytes for entry in manifest.files) / 1e6
    targets = ", ".join(f"{name} {graphs.precision}" for name, graphs in manifest.graphs.items())
    yield Finding("bundle", f"{manifest.name}, {targets}, {size:.1f} MB, {bundle.folder}")
    yield from _engines(bundle)
    yield from _answers(bundle)


def _engines(bundle: Bundle) -> Iterator[Finding]:
    """Each folder of engines."""
    from edge_mm_runtime.bundle import BUILT_ON_DEVICE
    from edge_mm_runtime.engines.manifest import load_engine_manifest

    for folder in sorted((bundle.folder / BUILT_ON_DEVICE).glob("*")):
        try:
            machine = load_engine_manifest(folder).machine
        except EdgeMMError as error:
            yield Finding("engines", str(error))
            continue
        yield Finding(
            "engines",
            f"{folder.name}: {machine.gpu}, {machine.flavour} {machine.tensorrt}",
        )


def _answers(bundle: Bundle) -> Iterator[Finding]:
    """What would run where: each device, with the graphs that it would take or what it lacks."""
    from edge_mm_runtime.engines.locate import find_engines
    from edge_mm_runtime.graphs import default_target

    yield Finding("--device", f"cpu: ONNX Runtime, graphs for {default_target(bundle)}")
    provider = "CUDAExecutionProvider"
    if default_target(bundle, "cuda") not in bundle.manifest.graphs:
        cuda = "the bundle has no graphs for it: edge-mm export --target cuda"
    elif provider not in _providers():
        cuda = f"ONNX Runtime has no {provider}: pip install 'edge-mm[gpu]'"
    else:
        cuda = "ONNX Runtime, graphs for cuda"
    yield Finding("--device", f"cuda: {cuda}")
    try:
        engines = f"the engines {find_engines(bundle, None, ()).folder.name}"
    except EdgeMMError as error:
        engines = str(error)
    yield Finding("--device", f"tensorrt: {engines}")


def _providers() -> list[str]:
    try:
        return _abilities("onnxruntime", importlib.import_module("onnxruntime"))
    except ImportError:
        return []


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
