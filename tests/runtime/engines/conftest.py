"""A tiny bundle with graphs for TensorRT: what the builder sees of a real one, in 30 kB.

The decoder is one fp16 layer in the operators of target `tensorrt` (opset 24): TensorScatter writes
the cache in place, Attention reads it under an explicit mask. Two key/value heads, since with one
TensorRT-RTX 1.7.1 has no attention kernel for a single token.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_mm_runtime.bundle import (
    Bundle,
    BundleManifest,
    DecoderGeometry,
    GraphSet,
    Grounding,
    Provenance,
    load_bundle,
    write_manifest,
)
from edge_mm_runtime.image import ImageTransform
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 64, 32, 4, 2, 16, 48
IMAGE_TOKENS = 16
SIDE = 32


@pytest.fixture(scope="session")
def rtx() -> Any:
    """tensorrt_rtx itself; a test of it is skipped where it is not installed."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("builds real engines: pip install 'edge-mm[rtx]'")
    import tensorrt_rtx

    return tensorrt_rtx


@pytest.fixture
def ctrl_c() -> Iterator[Callable[..., None]]:
    """A function that sends SIGINT to this process, as the terminal does.

    A shell starts background jobs with SIGINT ignored, so Python's handler is put in place.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda *_: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


Make = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> Make:
    """make_bundle(target=..., precision=..., vision=model, decoder=model, geometry=..., **fields).

    `fields` are the manifest's; `geometry` belongs to `decoder`.
    """

    def make(
        *,
        target: str = "tensorrt",
        precision: str = "fp16",
        vision: onnx.ModelProto | None = None,
        decoder: onnx.ModelProto | None = None,
        geometry: DecoderGeometry | None = None,
        **fields: Any,
    ) -> Bundle:
        folder = tmp_path / "bundle"
        folder.mkdir()
        graphs = GraphSet(f"vision.{target}.onnx", f"decoder.{target}.onnx", precision)
        onnx.save(vision or vision_graph(), str(folder / graphs.vision))
        onnx.save(decoder or decoder_graph(), str(folder / graphs.decoder))
        given: dict[str, Any] = {
            "name": "tiny",
            "family": "test",
            "licence": "Apache-2.0",
            "provenance": Provenance("", "", {}, "2026-11-22T00:00:00Z"),
            "image": ImageTransform("squash", SIDE, SIDE),
            "prompt": Prompt(NANO_TEMPLATE, "<image>", IMAGE_TOKENS),
            "stop_ids": (2,),
            "grounding": Grounding("edge_mm", 128, "head"),
            "decoder": geometry or DecoderGeometry(1, KV_HEADS, HEAD_DIM, CONTEXT, VOCAB, HIDDEN),
            "graphs": {target: graphs},
        }
        write_manifest(folder, BundleManifest(**{**given, **fields}))
        return load_bundle(folder)

    return make


@pytest.fixture
def device(make_bundle: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """device(target, engine): a `fake_machine.Device`; the exporter is loaded for it only."""
    from tests.runtime.engines.fake_machine import make_device

    return functools.partial(make_device, make_bundle, monkeypatch)


@pytest.fixture(scope="session")
def graphs() -> Any:
    """The functions below, for tests that build a graph of their own."""
    return SimpleNamespace(vision=vision_graph, decoder=decoder_graph, weight_only=weight_only)


def vision_graph() -> onnx.ModelProto:
    """pixel_values f16 [N, 3, 32, 32] -> image_embeds f16 [N, 16, 32]; N is open."""
    nodes = [
        helper.make_node(
            "Conv", ["pixel_values", "patch"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]
        ),
        helper.make_node("Reshape", ["cells", "flat"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["image_embeds"], perm=[0, 2, 1]),
    ]
    return _model(
        nodes,
        [_value("pixel_values", TensorProto.FLOAT16, ["N", 3, SIDE, SIDE])],
        [_value("image_embeds", TensorProto.FLOAT16, ["N", IMAGE_TOKENS, HIDDEN])],
        {
            "patch": _random(HIDDEN, 3, 8, 8),
            "flat": np.array([0, HIDDEN, IMAGE_TOKENS], np.int64),
        },
    )


def decoder_graph(
    *, lengths: str = "", spare: bool = False, last: str = "Gather"
) -> onnx.ModelProto:
    """The decoder.

    lengths  the tensor that Attention gets as nonpad_kv_seqlen
    spare    one more input, which no node reads
    last     the operator before the output projection (one that TensorRT may not know)
    """
    nodes = [
        _node("Concat", ["embedding", "image_embeds"], "table", axis=0),
        _node("Gather", ["table", "input_ids"], "x"),
    ]
    for part, shape in (("q", "as_heads"), ("key", "as_kv_heads"), ("value", "as_kv_heads")):
        nodes += [
            _node("MatMul", ["x", f"{part}_proj"], f"{part}_flat"),
            _node("Reshape", [f"{part}_flat", shape], f"{part}_rows"),
            _node("Transpose", [f"{part}_rows"], f"{part}_heads", perm=[0, 2, 1, 3]),
        ]
    nodes += [
        _node(
            "TensorScatter",
            [f"past_key_values.0.{part}", f"{part}_heads", "write_indices"],
            f"present.0.{part}",
            axis=2,
        )
        for part in ("key", "value")
    ]
    attended = ["q_heads", "present.0.key", "present.0.value", "mask"]
    nodes += [
        _node("Transpose", ["position_ids"], "rows", perm=[1, 0]),
        _node("LessOrEqual", ["slots", "rows"], "seen"),
        _node("Unsqueeze", ["seen", "outer"], "mask"),
        _node("Attention", attended + (["", "", lengths] if lengths else []), "heads"),
        _node("Transpose", ["heads"], "by_token", perm=[0, 2, 1, 3]),
        _node("Reshape", ["by_token", "as_flat"], "flat"),
        _node("MatMul", ["flat", "o_proj"], "mixed"),
        _node("Add", ["x", "mixed"], "y"),
        helper.make_node(last, ["y", "last"], ["final"], "/lm_head/last", axis=1),
        _node("MatMul", ["final", "lm_head"], "half"),
        _node("Cast", ["half"], "logits", to=TensorProto.FLOAT),
    ]
    cache = [1, KV_HEADS, CONTEXT, HEAD_DIM]
    inputs = [
        _value("input_ids", TensorProto.INT64, [1, "S"]),
        _value("image_embeds", TensorProto.FLOAT16, ["T", HIDDEN]),
        _value("position_ids", TensorProto.INT64, [1, "S"]),
        _value("write_indices", TensorProto.INT64, [1]),
        *(_value(f"past_key_values.0.{p}", TensorProto.FLOAT16, cache) for p in ("key", "value")),
        *([_value("spare", TensorProto.INT64, [1])] if spare else []),
    ]
    outputs = [
        _value("logits", TensorProto.FLOAT, [1, VOCAB]),
        *(_value(f"present.0.{p}", TensorProto.FLOAT16, cache) for p in ("key", "value")),
    ]
    weights = {
        "embedding": _random(VOCAB, HIDDEN),
        "q_proj": _random(HIDDEN, HEADS * HEAD_DIM),
        "key_proj": _random(HIDDEN, KV_HEADS * HEAD_DIM),
        "value_proj": _random(HIDDEN, KV_HEADS * HEAD_DIM),
        "o_proj": _random(HEADS * HEAD_DIM, HIDDEN),
        "lm_head": _random(HIDDEN, VOCAB),
        "as_heads": np.array([0, 0, HEADS, HEAD_DIM], np.int64),
        "as_kv_heads": np.array([0, 0, KV_HEADS, HEAD_DIM], np.int64),
        "as_flat": np.array([0, 0, HEADS * HEAD_DIM], np.int64),
        "slots": np.arange(CONTEXT, dtype=np.int64)[None],
        "outer": np.array([0, 1], np.int64),
        "last": np.array(-1, np.int64),
    }
    return _model(nodes, inputs, outputs, weights)


def weight_only(kind: int) -> onnx.ModelProto:
    """x f16 [1, 64] times a stored weight of an ONNX type (FLOAT8E4M3FN, ...), dequantised."""
    weight = helper.make_tensor("weight", kind, [64, 32], bytes(64 * 32), raw=True)
    nodes = [
        _node("DequantizeLinear", ["weight", "scale"], "matrix"),
        _node("MatMul", ["x", "matrix"], "y"),
    ]
    inputs = [_value("x", TensorProto.FLOAT16, [1, 64])]
    outputs = [_value("y", TensorProto.FLOAT16, [1, 32])]
    model = _model(nodes, inputs, outputs, {"scale": np.array(1, np.float16)})
    model.graph.initializer.append(weight)
    return model


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], f"/{output}", **attributes)


def _value(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _random(*shape: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal(shape) / 8).astype(np.float16)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
