"""`edge-mm doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import argparse
import importlib
import platform
from collections.abc import Iterator
from importlib import metadata

from edge_mm_runtime.errors import EdgeMMError

BASE = ("numpy", "msgspec", "tokenizers", "llguidance", "minijinja")
ENGINES = {"onnxruntime": "cpu", "cv2": "cpu", "tensorrt": "gpu"}
NEEDED = ("onnxruntime", "cv2")


def main(argv: list[str]) -> int:
    """Print the report; 0 when this machine can answer, 1 when it cannot."""
    parser = argparse.ArgumentParser(
        prog="edge-mm doctor", description="Show what this machine has and what is missing."
    )
    parser.add_argument("--bundle", default="default", help="bundle folder (default: the shipped)")
    args = parser.parse_args(argv)
    healthy = True
    for name, what, good in [*_machine(), *_packages(), _bundle(args.bundle)]:
        print(f"{name:<12} {what}")
        healthy = healthy and good
    print("ready" if healthy else "not ready: see above")
    return 0 if healthy else 1


def _machine() -> Iterator[tuple[str, str, bool]]:
    from edge_mm_runtime.runner import available_cores

    yield "edge-mm", _version("edge-mm"), True
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", True
    yield "cores", str(available_cores()), True


def _packages() -> Iterator[tuple[str, str, bool]]:
    for name in BASE:
        yield name, _version(name), True
    for name, extra in ENGINES.items():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            why = "missing" if isinstance(error, ModuleNotFoundError) else f"broken ({error})"
            needed = name in NEEDED
            mend = f"pip install 'edge-mm[{extra}]'" if needed else f"optional, edge-mm[{extra}]"
            yield name, f"{why}: {mend}", not needed
            continue
        providers = module.get_available_providers() if name == "onnxruntime" else []
        yield name, " ".join([module.__version__, *providers]), True


def _bundle(spec: str) -> tuple[str, str, bool]:
    from edge_mm_runtime.bundle import load_bundle

    try:
        bundle = load_bundle(spec)
    except EdgeMMError as error:
        return "bundle", str(error), False
    manifest = bundle.manifest
    size = sum(entry.bytes for entry in manifest.files) / 1e6
    targets = ", ".join(f"{name} {graphs.precision}" for name, graphs in manifest.graphs.items())
    return "bundle", f"{manifest.name}, {targets}, {size:.1f} MB, {bundle.folder}", True


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed as a package"
