"""One ONNX graph -> one plan (TensorRT's word for a serialised engine).

Every step of TensorRT that can fail says so by a return value; each is checked here and answered
by an EngineError that quotes TensorRT's reason.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.library import Library
from edge_mm_runtime.engines.log import Messages, logger
from edge_mm_runtime.engines.nodes import check_nodes
from edge_mm_runtime.engines.precision import check_precision, precisions_of
from edge_mm_runtime.engines.profiles import (
    REPLAYED,
    Profile,
    Sizes,
    add_profiles,
    plan_profiles,
)
from edge_mm_runtime.engines.progress import Progress, Show, monitor, run_shown


@dataclass(frozen=True)
class Options:
    """What all graphs of a bundle share."""

    library: Library
    target: str
    compute_capability: int
    workspace_bytes: int
    timing_cache: Path  # read and written where TensorRT keeps one
    show: Show


def build_plan(
    graph: Path, what: str, sizes: dict[str, Sizes], options: Options
) -> tuple[Any, tuple[Profile, ...]]:
    """Build a graph; the plan is TensorRT's own buffer (IHostMemory), not a copy of it.

    `what` names the graph in messages. A KeyboardInterrupt stops TensorRT and is raised again.
    """
    check_nodes(graph)
    trt, messages = options.library.module, Messages()
    log = logger(trt, messages)
    try:
        builder = trt.Builder(log)
    except TypeError:  # pybind11's word for a null pointer: no CUDA, no driver
        raise EngineError(
            f"{options.library} cannot start on this machine: {messages.reasons()}"
        ) from None
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, log)  # the network's weights live in it
    _parse(parser, network, graph, messages)
    _check_unused(messages, graph, options.library)  # before minutes of building
    precisions = precisions_of(_data_types(network))
    check_precision(precisions, options.compute_capability, options.target, graph.name)
    config = builder.create_builder_config()
    _configure(config, options)
    if REPLAYED in sizes:
        _allow_capture(trt, config)
    profiles = plan_profiles(network, sizes)
    add_profiles(builder, config, profiles)
    cache = _read_timing_cache(config, options)
    progress = Progress()
    watcher = monitor(trt, progress)  # must live as long as the build
    config.progress_monitor = watcher
    plan = run_shown(
        lambda: builder.build_serialized_network(network, config), progress, what, options.show
    )
    if plan is None:
        raise EngineError(f"{options.library} cannot build {graph.name}: {messages.reasons()}")
    _check_unused(messages, graph, options.library)
    if cache is not None:
        with contextlib.suppress(OSError):  # a cache only saves time
            options.timing_cache.write_bytes(bytes(cache.serialize()))
    return plan, profiles


def _network_flags(trt: Any) -> int:
    """Types come from the graph. TensorRT 11 knows nothing else, 10 must be told so."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(parser: Any, network: Any, graph: Path, messages: Messages) -> None:
    if not parser.parse_from_file(str(graph)):  # by path, so that external data is found
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        said = "; ".join(
            f"node {error.node_name() or '(unnamed)'}, operator {error.node_operator() or '?'}: "
            f"{error.desc()}"
            for error in errors
        )
        raise EngineError(f"TensorRT's parser refuses {graph.name}: {said or messages.reasons()}")
    if not network.num_outputs:
        raise EngineError(f"{graph} holds no graph: export the bundle again")


def _data_types(network: Any) -> set[str]:
    """Names of the types that the layers give out; stored weights are such layers too."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return {
        layer.get_output(index).dtype.name for layer in layers for index in range(layer.num_outputs)
    }


def _configure(config: Any, options: Options) -> None:
    trt = options.library.module
    pool = trt.MemoryPoolType.WORKSPACE
    config.set_memory_pool_limit(pool, options.workspace_bytes)
    if config.get_memory_pool_limit(pool) != options.workspace_bytes:
        raise EngineError(
            f"{options.library} refuses a workspace of {options.workspace_bytes} bytes: "
            "give another --memory-limit"
        )
    if options.library.flavour == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        capability = trt.ComputeCapability(options.compute_capability)
        if not config.set_compute_capability(capability, 0):
            raise EngineError(f"{options.library} does not build for SM{capability.value}")


def _allow_capture(trt: Any, config: Any) -> None:
    """Have TensorRT-RTX allocate nothing while it runs, without which no CUDA graph can be made."""
    flag = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
    if flag is not None:  # TensorRT-RTX 1.2 and later; full TensorRT never does
        config.set_flag(flag)


def _read_timing_cache(config: Any, options: Options) -> Any:
    """The cache of kernel timings that the build uses, or None where there is none.

    TensorRT-RTX has the calls, deprecated: it picks kernels when it runs and has nothing to keep.
    """
    if options.library.flavour == "tensorrt_rtx" or not hasattr(config, "create_timing_cache"):
        return None
    path = options.timing_cache
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):  # of another version or GPU
        cache = config.create_timing_cache(b"")
        if not config.set_timing_cache(cache, False):
            return None
    return cache


def _check_unused(messages: Messages, graph: Path, library: Library) -> None:
    unused = messages.unused_inputs()
    if unused:
        raise EngineError(
            f"{library} drops input {', '.join(unused)} of {graph.name}, so the engine would "
            "compute something else: export the checkpoint again with this edge-mm"
        )
