"""engine.json: what engines were built from and for, and whether they fit this machine.

A plan of TensorRT runs only with the TensorRT that built it, on the GPU that it was built for (of
TensorRT-RTX: on any GPU of the compute capability), and answers like the ONNX graphs that it was
built from. All of this is compared before a plan is loaded, without TensorRT.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import msgspec

from edge_mm_runtime.bundle import BUILT_ON_DEVICE, Bundle, GraphSet
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Flavour
from edge_mm_runtime.engines.profiles import Profile
from edge_mm_runtime.hashes import files_sha256, hash_line

SCHEMA = 1
ENGINE_MANIFEST = "engine.json"
ENGINE_MANIFEST_HASH = "engine.json.sha256"


class Machine(msgspec.Struct, frozen=True):
    """What engines depend on. `gpu` is "ahead of time for SM89" where they were built without."""

    gpu: str
    compute_capability: int
    flavour: Flavour
    tensorrt: str
    cuda: str | None = None  # the driver's newest; for the record


class Plan(msgspec.Struct, frozen=True):
    """One engine file; `onnx` is its graph's path in the bundle."""

    file: str
    bytes: int
    sha256: str
    onnx: str
    onnx_sha256: str
    profiles: tuple[Profile, ...]
    build_s: float


class EngineManifest(msgspec.Struct, frozen=True, kw_only=True):
    """engine.json; `plans` has "vision" and "decoder"."""

    schema: int = SCHEMA
    edge_mm: str
    machine: Machine
    target: str
    precision: str
    plans: dict[str, Plan]


def graph_files(bundle: Bundle, graph: str) -> list[tuple[str, int, str]]:
    """(path, bytes, sha256) of a graph and its external data, which is named `<graph>.*`."""
    bundle.path(graph)  # BundleError unless the bundle lists it
    return sorted(
        (entry.path, entry.bytes, entry.sha256)
        for entry in bundle.manifest.files
        if entry.path == graph or entry.path.startswith(f"{graph}.")
    )


def graph_sha256(bundle: Bundle, graph: str) -> str:
    """Hash of a graph; with external data the hash of the list of the hashes."""
    files = graph_files(bundle, graph)
    if len(files) == 1:
        return files[0][2]
    listed = "".join(f"{path} {sha256}\n" for path, _, sha256 in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def engine_folder(bundle: Bundle, graphs: GraphSet, machine: Machine) -> Path:
    """BUNDLE/engines/<gpu>-sm<cc>-trt<version>-<onnx hash>, where its engines lie or will lie."""
    both = "".join(graph_sha256(bundle, graph) for graph in (graphs.vision, graphs.decoder))
    gpu = re.sub(r"[^a-z0-9]+", "-", machine.gpu.lower().partition(" for sm")[0]).strip("-")
    version = f"{'-rtx' if machine.flavour == 'tensorrt_rtx' else ''}{machine.tensorrt}"
    name = (
        f"{gpu}-sm{machine.compute_capability}-trt{version}-"
        f"{hashlib.sha256(both.encode()).hexdigest()[:12]}"
    )
    return bundle.folder / BUILT_ON_DEVICE / name


def manifest_files(manifest: EngineManifest) -> dict[str, bytes]:
    """What the builder writes beside the plans: engine.json and its hash, by file name."""
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    return {ENGINE_MANIFEST: text, ENGINE_MANIFEST_HASH: hash_line(text, ENGINE_MANIFEST)}


def load_engine_manifest(folder: Path) -> EngineManifest:
    """Read engine.json; EngineError when it is missing, damaged or of another schema."""
    path = folder / ENGINE_MANIFEST
    again = "run `edge-mm build` again"
    try:
        data = path.read_bytes()
        schema = msgspec.json.decode(data, type=_Schema).schema
        if schema != SCHEMA:
            raise EngineError(
                f"{path} has engine schema {schema}, this edge-mm reads schema {SCHEMA}: {again}"
            )
        manifest = msgspec.json.decode(data, type=EngineManifest)
        _check_hash(path, data, again)
        return manifest
    except FileNotFoundError:
        raise EngineError(f"no engines at {folder}: {again}") from None
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EngineError(f"{path} is damaged: {error}: {again}") from None


def differences(manifest: EngineManifest, bundle: Bundle, machine: Machine) -> list[str]:
    """What keeps engines from running here, one line each; empty where they fit."""
    built, lines = manifest.machine, []

    def compare(what: str, theirs: object, ours: object) -> None:
        if theirs != ours:
            lines.append(f"{what} {theirs}, here is {ours}")

    compare("TensorRT flavour", built.flavour, machine.flavour)
    if built.flavour == machine.flavour:
        compare("TensorRT", built.tensorrt, machine.tensorrt)
    if built.flavour == "tensorrt":
        compare("GPU", built.gpu, machine.gpu)
    compare("compute capability", built.compute_capability, machine.compute_capability)
    for plan in manifest.plans.values():
        if all(entry.path != plan.onnx for entry in bundle.manifest.files):
            lines.append(f"graph {plan.onnx}, which the bundle has no more")
        elif (now := graph_sha256(bundle, plan.onnx)) != plan.onnx_sha256:
            lines.append(f"graph {plan.onnx} {plan.onnx_sha256[:12]}, the bundle has {now[:12]}")
    return lines


def check_engine(
    folder: Path,
    bundle: Bundle,
    machine: Machine,
    verify: Literal["hash", "size"] = "hash",
    parts: Collection[str] = ("vision", "decoder"),
) -> EngineManifest:
    """The manifest of engines that fit this machine; EngineError says why they do not.

    The files of `parts` are whole.
    """
    manifest = load_engine_manifest(folder)
    again = f"run `edge-mm build {bundle.folder}` on this machine"
    lines = differences(manifest, bundle, machine)
    if lines:
        raise EngineError(f"{folder} was built for {'; for '.join(lines)}: {again}")
    for part in parts:
        if part not in manifest.plans:
            raise EngineError(f"{folder / ENGINE_MANIFEST} has no plan {part}: {again}")
        _check_plan(folder, manifest.plans[part], verify, again)
    return manifest


class _Schema(msgspec.Struct):
    schema: int


def _check_hash(path: Path, data: bytes, again: str) -> None:
    """Whether engine.json is what was written: one byte of it may be another valid shape."""
    written = path.with_name(ENGINE_MANIFEST_HASH)
    if not written.is_file():
        raise EngineError(f"{path.parent}: {ENGINE_MANIFEST_HASH} is missing: {again}")
    if written.read_bytes() != hash_line(data, ENGINE_MANIFEST):
        raise EngineError(f"{path} has not the hash in {ENGINE_MANIFEST_HASH}: {again}")


def _check_plan(folder: Path, plan: Plan, verify: str, again: str) -> None:
    path = folder / plan.file
    if Path(plan.file).name != plan.file:
        raise EngineError(f"{folder / ENGINE_MANIFEST} names a file outside it: {plan.file}")
    try:
        size = path.stat().st_size
        if size != plan.bytes:
            raise EngineError(f"{path} has {size} bytes instead of {plan.bytes}: {again}")
        if verify == "hash" and files_sha256(path) != plan.sha256:
            raise EngineError(f"{path} has a wrong hash: {again}")
    except FileNotFoundError:
        raise EngineError(f"{path} is missing: {again}") from None
    except OSError as error:
        raise EngineError(f"cannot read {path}: {error.strerror}") from None
