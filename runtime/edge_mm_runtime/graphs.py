"""The graphs of a bundle: which of them answer on a device, and the engines that run them."""

from __future__ import annotations

from typing import Literal

from edge_mm_runtime.bundle import Bundle
from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.devices import Device
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.runner import OnnxRunner, Runner


def default_target(bundle: Bundle, device: Device = "cpu") -> str:
    """The target of a bundle that answers on a device.

    On the CPU any will do: without graphs for it, the first that the bundle has; openvino reads
    those for the CPU only. For tensorrt it is that of the engines that were built here; EngineError
    where there are none.
    """
    if device == "tensorrt":  # JetPack 6 reads tensorrt-10.3 only, whatever else the bundle has
        from edge_mm_runtime.engines.locate import find_engines

        return find_engines(bundle, None, ()).manifest.target
    if device == "openvino":
        return "cpu"
    targets = bundle.manifest.graphs
    return device if device == "cuda" or device in targets else next(iter(targets), device)


def open_graph(
    bundle: Bundle,
    part: Literal["vision", "decoder"],
    target: str,
    threads: int | None = None,
    device: Device = "cpu",
) -> Runner:
    """A graph of a target on a device; BundleError where it cannot be run there."""
    graphs = bundle.graphs(target)
    if device == "tensorrt":
        from edge_mm_runtime.engines.runner import open_engine

        return open_engine(bundle, part, target)
    if device == "openvino":
        from edge_mm_runtime.openvino import open_openvino

        return open_openvino(bundle, part, target, threads)
    try:
        if part == "vision":
            return OnnxRunner(bundle.path(graphs.vision), threads, provider=device)
        geometry = bundle.manifest.decoder
        return open_decoder(bundle.path(graphs.decoder), geometry, threads, target, device)
    except BundleError as error:
        if graphs.precision != "bf16" or device != "cpu":
            raise
        raise BundleError(
            f"{error}: bf16 graphs are for a GPU, ONNX Runtime computes no bf16 on a CPU: to "
            "check their numbers on one, export with --precision fp16"
        ) from None


def check_graphs(bundle: Bundle, vision: Runner, decoder: Runner) -> None:
    """Raise BundleError where a graph does not do what bundle.json says."""
    manifest, given = bundle.manifest, vision.outputs
    points = manifest.grounding.box_source == "head"
    wanted = {"image_embeds"} | ({"region_keys", "region_boxes"} if points else set())
    missing = wanted - given.keys()
    if points:
        missing |= {"region_query"} - decoder.outputs.keys()
    if missing:
        raise BundleError(
            f"{bundle.folder}: its graphs do not give {', '.join(sorted(missing))}: "
            "export the checkpoint again"
        )
    rows, said = given["image_embeds"].shape[1], manifest.prompt.image_token_count
    if said and rows not in (None, said):  # 0: it is no part of the prompt
        raise BundleError(
            f"{bundle.folder}: its vision graph gives {rows} image tokens, the prompt "
            f"has {said}: export the checkpoint again"
        )
