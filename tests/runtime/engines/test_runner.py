"""The TensorRT runner on a CUDA and a TensorRT of straw, against ONNX Runtime's runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_mm_runtime.decoder import Decoder, decoder_inputs, open_decoder
from edge_mm_runtime.engines.binding import cache_state
from edge_mm_runtime.runner import OnnxRunner, Runner
from tests.runtime.engines.exported import GEOMETRY
from tests.runtime.engines.fake_cuda import cudaError_t
from tests.runtime.engines.fake_machine import PROMPT, VOCAB, Device, picture
from tests.runtime.engines.fake_tensorrt import (
    ICudaEngine,
    NewEngine,
    RtxEngine,
    Specialisation,
)


def answers(runner: Runner, target: str) -> list[Any]:
    """Ids and logits of three questions about two pictures, greedily."""
    found: list[Any] = []
    told = Decoder(runner, GEOMETRY, target)
    questions = [(0, 5, PROMPT), (0, 5, [*PROMPT[:-1], 50, 51]), (1, 4, [2, VOCAB, VOCAB + 3, 9])]
    for seed, rows, prompt in questions:
        told.set_image(picture(seed, rows))
        position = told.prefill(prompt)
        for step in range(9):
            token = int(position.logits.argmax())
            found.append((token, position.logits, position.region_query))
            ids = [token, 60] if step == 4 else [token]  # a forced id after it
            position = told.extend(ids)
    return found


@pytest.mark.parametrize(
    ("target", "engine"),
    [("tensorrt", NewEngine), ("tensorrt", RtxEngine), ("tensorrt-10.3", ICudaEngine)],
)
def test_it_answers_as_onnx_runtime_does(
    target: str, engine: type[ICudaEngine], device: Callable[..., Device]
) -> None:
    machine = device(target, engine)
    with open_decoder(machine.graph, GEOMETRY, 1, target) as reference:
        expected = answers(reference, target)
        border = (reference.inputs, reference.outputs)
    with machine.open() as runner:
        assert (runner.inputs, runner.outputs, runner.target) == (*border, target)
        found = answers(runner, target)
        assert runner.graph_error is None
    assert [token for token, *_ in found] == [token for token, *_ in expected]
    for (_, *theirs), (_, *ours) in zip(expected, found, strict=True):
        for wanted, got in zip(theirs, ours, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)
    assert len({token for token, *_ in expected}) > 5  # not one id for ever
    assert machine.cudart.leaks == 0


@pytest.mark.parametrize(("target", "engine", "graphs"), [
    ("tensorrt", NewEngine, 1), ("tensorrt-10.3", ICudaEngine, 2),
])  # fmt: skip
def test_a_token_is_one_graph_launch(
    target: str, engine: type[ICudaEngine], graphs: int, device: Callable[..., Device]
) -> None:
    """In place one graph does; where two buffers swap, one for each of them."""
    machine = device(target, engine)
    with machine.open() as runner:
        decode, prefill = machine.trt.engines[0]._contexts[::-1]
        calls = machine.cudart.calls
        told = Decoder(runner, GEOMETRY, target)
        told.set_image(picture(0))
        told.prefill(PROMPT)
        assert prefill._enqueued == 1
        opened = len(calls)
        for token in range(12):
            told.extend([token])
        assert decode._enqueued == 1 + graphs  # the first pass, then what was captured
        assert calls.count("cudaGraphInstantiate") == graphs
        assert not any("Malloc" in name or "HostAlloc" in name for name in calls[opened:])
        del calls[:]
        told.extend([5])
        assert calls == ["cudaGraphLaunch", "cudaEventRecord", "cudaEventSynchronize"]
        # Another picture: copied once, in front of the same graph.
        told.set_image(picture(1))
        told.prefill([1, VOCAB, 2])
        told.extend([3])
        told.extend([4])
        assert calls.count("cudaGraphLaunch") == 3 and "cudaGraphInstantiate" not in calls
        # A picture of another size: captured anew, and the old graphs are given back.
        told.set_image(picture(1, rows=3))
        told.prefill([1, VOCAB, 2])
        for token in range(4):
            told.extend([token])
        assert calls.count("cudaGraphInstantiate") == graphs
        assert calls.count("cudaGraphExecDestroy") == graphs
    assert machine.cudart.leaks == 0


def test_a_picture_is_copied_when_it_changes(device: Callable[..., Device]) -> None:
    machine = device()
    with machine.open() as runner:
        told, image = Decoder(runner, GEOMETRY, "tensorrt"), picture(0)
        told.set_image(image)
        told.prefill(PROMPT)
        expected = told.extend([3]).logits
        told.extend([8])  # captured
        copies = machine.cudart.calls.count
        before = copies("cudaMemcpyAsync")
        told.extend([8])
        assert copies("cudaMemcpyAsync") == before  # all that a token needs is in the graph
        image[:] = picture(1)  # the same array, other values: not to be missed
        told.extend([8])
        assert copies("cudaMemcpyAsync") == before + 1
        told.set_image(picture(0))
        told.prefill(PROMPT)
        np.testing.assert_array_equal(told.extend([3]).logits, expected)


def test_the_cache_is_zero_and_in_place(device: Callable[..., Device]) -> None:
    machine = device()
    size = 2 * GEOMETRY.kv_heads * GEOMETRY.context * GEOMETRY.head_dim
    with machine.open() as runner:
        runner.run(decoder_inputs("tensorrt", 0, PROMPT[:-1], picture(0)))
        runner.run(decoder_inputs("tensorrt", len(PROMPT) - 1, PROMPT[-1:], picture(0)))
        for context in machine.trt.engines[0]._contexts:
            for past, new in cache_state(GEOMETRY).items():
                assert context._addresses[past] == context._addresses[new]
                rows = machine.cudart.memory(context._addresses[past], size).view(np.float16)
                rows = rows.reshape(GEOMETRY.kv_heads, GEOMETRY.context, GEOMETRY.head_dim)
                assert rows[:, : len(PROMPT)].any(axis=(0, 2)).all()
                assert not rows[:, len(PROMPT) :].any()


def test_swapped_buffers_keep_what_came_before(device: Callable[..., Device]) -> None:
    machine = device("tensorrt-10.3", ICudaEngine)
    with machine.open() as runner:
        context = machine.trt.engines[0]._contexts[0]
        pair = ("past_key_values.1.value", "present.1.value")
        seen = []
        for start in range(3):
            runner.run(decoder_inputs("tensorrt-10.3", 2 * start, [4, 5], picture(0)))
            seen.append(tuple(context._addresses[name] for name in pair))
        assert seen[0] == seen[1][::-1] == seen[2]
        assert len(set(seen[0])) == 2


def test_rtx_compiles_for_the_shape_that_is_captured(device: Callable[..., Device]) -> None:
    machine = device("tensorrt", RtxEngine)
    with machine.open():
        configs = [context._config for context in machine.trt.engines[0]._contexts]
        strategies = [c.dynamic_shapes_kernel_specialization_strategy for c in configs]
        assert strategies == [Specialisation.LAZY, Specialisation.EAGER]  # prefill, decode


def test_vision_runs_without_profiles_of_its_own(device: Callable[..., Device]) -> None:
    machine = device()
    pixels = np.random.default_rng(0).normal(0, 1, (1, 3, 32, 32)).astype(np.float16)
    path = machine.bundle.path(machine.bundle.graphs("tensorrt").vision)
    with OnnxRunner(path, 1) as reference, machine.open("vision") as runner:
        assert (runner.inputs, runner.outputs) == (reference.inputs, reference.outputs)
        first = runner.run({"pixel_values": pixels})["image_embeds"]
        wanted = reference.run({"pixel_values": pixels})["image_embeds"]
        runner.run({"pixel_values": pixels * 2})
        np.testing.assert_array_equal(first, wanted)  # and they are the caller's own
    assert machine.cudart.leaks == 0


@pytest.mark.parametrize(
    "name", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_without_a_graph_it_says_so_and_goes_on(
    name: str, device: Callable[..., Device], caplog: pytest.LogCaptureFixture
) -> None:
    machine = device()
    with open_decoder(machine.graph, GEOMETRY, 1, "tensorrt") as reference:
        expected = answers(reference, "tensorrt")
    with machine.open() as runner:
        machine.cudart.failing[name] = cudaError_t.cudaErrorStreamCaptureInvalidated
        found = answers(runner, "tensorrt")
        assert runner.graph_error == (
            f"{name} failed: cudaErrorStreamCaptureInvalidated (as CUDA words it)"
        )
        machine.cudart.failing.clear()
    assert [token for token, *_ in found] == [token for token, *_ in expected]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without a CUDA graph" in caplog.text and name in caplog.text
    assert machine.cudart.leaks == 0
