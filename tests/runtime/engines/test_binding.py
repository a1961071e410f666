"""The binding plan of the exporter's own graphs, parsed by a real TensorRT-RTX.

ONNX Runtime is the reference: what it binds for the same file, TensorRT must be given.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from edge_mm_runtime.decoder import open_decoder
from edge_mm_runtime.engines.binding import (
    Binding,
    Tensor,
    cache_state,
    engine_tensors,
    greatest_shapes,
    network_tensors,
    plan_bindings,
)
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.log import Messages, logger
from edge_mm_runtime.engines.profiles import (
    Profile,
    Range,
    decoder_sizes,
    plan_profiles,
    vision_sizes,
)
from edge_mm_runtime.runner import OnnxRunner
from tests.runtime.engines.exported import GEOMETRY, TARGETS, decoder

IMAGE_TOKENS = 5


def parsed(rtx: Any, path: Path) -> Any:
    """A network, and what must live as long."""
    log = logger(rtx, Messages())
    builder = rtx.Builder(log)
    network = builder.create_network(0)
    parser = rtx.OnnxParser(network, log)
    assert parser.parse_from_file(str(path))
    return SimpleNamespace(network=network, keep=(parser, builder, log))


@pytest.mark.parametrize("target", TARGETS)
def test_what_onnx_runtime_binds_is_planned(target: str, rtx: Any, tmp_path: Path) -> None:
    decoder(target, tmp_path)
    path = tmp_path / f"{target}.onnx"
    held = parsed(rtx, path)
    tensors = network_tensors(held.network)
    sizes = decoder_sizes(GEOMETRY.context, IMAGE_TOKENS, IMAGE_TOKENS + 8)
    profiles = plan_profiles(held.network, sizes)
    plan = plan_bindings(tensors, profiles, cache_state(GEOMETRY))
    with open_decoder(path, GEOMETRY, 1, target) as runner:
        for role, border in (("input", runner.inputs), ("output", runner.outputs)):
            assert {b.name: b.spec for b in plan if b.role == role} == border
        buffers = [value.numpy() for value in runner._state]
    state = [b for b in plan if b.role == "state"]
    updates = [b for b in state if b.of != b.name]
    assert {b.of: b.name for b in updates} == cache_state(GEOMETRY)
    assert [(b.shape, b.bytes) for b in updates] == [(x.shape, x.nbytes) for x in buffers]
    assert all(b.spec is None and b.place == "device" for b in state)
    # TensorScatter becomes TensorRT's own in-place layer; ordinary scatters do not.
    assert {b.in_place for b in state} == {target == "tensorrt"}
    by_name = {b.name: b for b in plan}
    assert by_name["input_ids"].shape == by_name["position_ids"].shape == (1, GEOMETRY.context)
    assert by_name["image_embeds"].shape == (GEOMETRY.context, GEOMETRY.hidden_size)
    assert by_name["logits"].bytes == GEOMETRY.vocab_size * 4
    for binding in plan:
        if binding.spec is not None:
            size = math.prod(binding.shape) * np.dtype(binding.spec.dtype).itemsize
            assert (binding.bytes, binding.place) == (size, "device")


def test_a_cache_of_bf16_needs_no_type_of_numpy(rtx: Any, tmp_path: Path) -> None:
    decoder("tensorrt", tmp_path, "bf16")
    held = parsed(rtx, tmp_path / "tensorrt.onnx")
    profiles = plan_profiles(held.network, decoder_sizes(GEOMETRY.context, 5, 13))
    plan = plan_bindings(network_tensors(held.network), profiles, cache_state(GEOMETRY))
    sizes = {(b.dtype, b.bytes) for b in plan if b.role == "state"}
    assert sizes == {("BF16", 2 * 2 * GEOMETRY.context * 16)}


def test_the_vision_graph_has_no_state(rtx: Any, graphs: Any, tmp_path: Path) -> None:
    path = tmp_path / "vision.onnx"
    onnx.save(graphs.vision(), str(path))
    held = parsed(rtx, path)
    profiles = plan_profiles(held.network, vision_sizes())
    tensors = network_tensors(held.network)
    with pytest.raises(EngineError, match=r"image_embeds is \[-1, 16, 32\] and no profile"):
        plan_bindings(tensors, profiles, {})
    plan = plan_bindings(tensors, profiles, {}, {"image_embeds": (1, 16, 32)})
    with OnnxRunner(path, 1) as runner:
        assert {b.name: b.spec for b in plan if b.role == "input"} == runner.inputs
        assert {b.name: b.spec for b in plan if b.role == "output"} == runner.outputs
    assert [(b.name, b.shape, b.bytes) for b in plan] == [
        ("pixel_values", (1, 3, 32, 32), 6144),
        ("image_embeds", (1, 16, 32), 1024),
    ]


PAST = Tensor("past_key_values.0.key", "HALF", (1, 2, 8, 4), True)
NEW = Tensor("present.0.key", "HALF", (1, 2, 8, 4), False, alias="past_key_values.0.key")
STATE = {PAST.name: NEW.name}


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ([PAST], r"no state past_key_values.0.key -> present.0.key: run `edge-mm build"),
        ([PAST, NEW._replace(is_input=True)], "no state"),
        ([PAST, NEW._replace(dtype="FLOAT")], r"is HALF\[1, 2, 8, 4\] and its update .* FLOAT"),
        (
            [PAST, NEW._replace(shape=(1, 2, 9, 4))],
            r"and its update present.0.key is HALF\[1, 2, 9",
        ),
        ([p._replace(shape=(1, 2, -1, 4)) for p in (PAST, NEW)], "export the bundle again"),
        ([p._replace(dtype="INT4") for p in (PAST, NEW)], "has type INT4"),
        ([PAST, NEW, Tensor("x", "BF16", (1,), True)], "x has type BF16, which numpy has not"),
        ([PAST, NEW, Tensor("x", "HALF", (-1,), True)], r"x is \[-1\] and no profile"),
        ([PAST, NEW._replace(alias="x"), Tensor("x", "HALF", (1,), True)], "is no state"),
    ],
)
def test_what_cannot_be_bound_is_named(tensors: list[Tensor], line: str) -> None:
    with pytest.raises(EngineError, match=line):
        plan_bindings(tensors, (), STATE)


def test_a_tensor_that_decides_shapes_lies_on_the_host() -> None:
    past = Tensor("past_length", "INT64", (1,), True, on_host=True)
    (_, _, plan) = plan_bindings([PAST, NEW, past], (), STATE)
    assert isinstance(plan, Binding)
    assert (plan.place, plan.bytes, plan.role) == ("host", 8, "input")


def test_the_greatest_shape_is_that_of_all_profiles() -> None:
    profiles = [
        Profile("a", {"x": Range((1, 1), (1, 4), (1, 9))}),
        Profile("b", {"x": Range((1, 1), (2, 1), (2, 1))}),
    ]
    assert greatest_shapes(profiles) == {"x": (2, 9)}


def test_an_engine_without_the_method_has_no_aliases() -> None:
    """TensorRT 10.3; what a newer one says is taken."""
    modes = {"past_key_values.0.key": "INPUT", "present.0.key": "OUTPUT"}
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=list(modes).__getitem__,
        get_tensor_mode=lambda name: SimpleNamespace(name=modes[name]),
        get_tensor_dtype=lambda name: SimpleNamespace(name="HALF"),
        get_tensor_shape=lambda name: [1, 2, 8, 4],
        get_tensor_location=lambda name: SimpleNamespace(name="DEVICE"),
    )
    assert engine_tensors(engine) == (PAST, NEW._replace(alias=None))
    engine.get_aliased_input_tensor = lambda name: PAST.name
    assert engine_tensors(engine) == (PAST, NEW)
