"""Tiny real bundles, built in well under a second: two models with the same vision graph.

tiny_bundle      random weights: embedding, one GroupQueryAttention layer, lm_head, region head
spoken_bundle    says what it is told to: the next token depends on the last one only
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from edge_mm_runtime.bundle import (
    BundleManifest,
    DecoderGeometry,
    GraphSet,
    Grounding,
    Provenance,
    write_manifest,
)
from edge_mm_runtime.grounding import SPECIAL_TOKENS, location_tokens
from edge_mm_runtime.image import ImageTransform
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt

VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 448, 32, 2, 1, 16, 160
GRID, KEY = 4, 8  # GRID x GRID image tokens and regions
SIDE = 32
CORPUS = (
    "pick red cup; place left of blue bowl",
    "find the red cup",
    "a red cup on the table",
    "push the green bottle, yes, no, 3",
)


@pytest.fixture(scope="session")
def boxes() -> np.ndarray:
    """region_boxes of the vision graph, [P, 6]."""
    return _region_boxes()


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    """Weights of the tiny bundle's decoder: q, k, v of HEADS x HEAD_DIM, and its rotary tables."""
    return _decoder_weights()


def _region_boxes() -> np.ndarray:
    """[P, 6]: cell k's box and a point a little off its centre."""
    rows = []
    for k in range(GRID * GRID):
        x, y = (k % GRID) / GRID, (k // GRID) / GRID
        rows.append((x, y, x + 0.21, y + 0.17, x + 0.11, y + 0.07))
    return np.array(rows, np.float32)


def _decoder_weights() -> dict[str, np.ndarray]:
    """Random weights of the tiny decoder, and its rotary tables."""
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    angles = np.arange(CONTEXT)[:, None] / 10_000 ** (np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM)
    return {
        "embedding": normal(VOCAB, HIDDEN),
        "q": normal(HIDDEN, HEADS * HEAD_DIM) / 4,
        "k": normal(HIDDEN, KV_HEADS * HEAD_DIM) / 4,
        "v": normal(HIDDEN, KV_HEADS * HEAD_DIM),
        "o": normal(HEADS * HEAD_DIM, HIDDEN),
        "lm_head": normal(HIDDEN, VOCAB),
        "region": normal(HIDDEN, KEY),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
    }


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer like nano's."""
    out = Tokenizer(models.BPE())
    out.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    out.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 8,
        special_tokens=[*SPECIAL_TOKENS, *location_tokens()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    out.train_from_iterator(CORPUS * 4, trainer)
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model with random weights; it never says <none> where it may locate something."""
    grounding = Grounding("edge_mm", 128, "head", existence_threshold=0.0)
    folder = tmp_path_factory.mktemp("tiny")
    return write_bundle(folder, tokenizer, _attention_decoder(), 1, grounding)


@pytest.fixture
def spoken_bundle(tmp_path: Path, tokenizer: Tokenizer) -> Callable[..., Path]:
    """spoken_bundle("<ref>red cup</ref><box>", ...) -> a bundle that answers so.

    After the text that is given the model wants to stop. `point_at` is the cell that it points at.
    `doubt` is how much less likely <none> is than the first token, in logits.
    """

    def build(
        answer: str,
        *,
        point_at: int = 5,
        doubt: float = 20.0,
        box_source: str = "head",
        existence_threshold: float | None = None,
    ) -> Path:
        ids = tokenizer.encode(answer, add_special_tokens=False).ids
        logits = np.zeros((VOCAB, VOCAB), np.float32)
        previous = tokenizer.token_to_id("<assistant>")
        for token in ids:
            logits[previous, token] = 20.0
            previous = token
        stop = tokenizer.token_to_id("<eos>")
        logits[previous, stop] = logits[tokenizer.token_to_id("</box>"), stop] = 20.0
        start, none = (tokenizer.token_to_id(name) for name in ("<assistant>", "<none>"))
        logits[start, none] = max(logits[start, none], 20 - doubt)
        query = np.zeros((VOCAB, KEY), np.float32)
        query[:] = 30 * _region_keys()[point_at]
        folder = tmp_path / f"spoken-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        grounding = Grounding("edge_mm", 128, box_source, existence_threshold)  # type: ignore[arg-type]
        return write_bundle(folder, tokenizer, _table_decoder(logits, query), 0, grounding)

    return build


def write_bundle(
    folder: Path,
    tokenizer: Tokenizer,
    decoder: onnx.ModelProto,
    layers: int,
    grounding: Grounding | None = None,
) -> Path:
    """Write a whole bundle into an empty folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    onnx.save(_vision(), str(folder / "vision.cpu.onnx"))
    onnx.save(decoder, str(folder / "decoder.cpu.onnx"))
    write_manifest(
        folder,
        BundleManifest(
            name="tiny",
            family="test",
            licence="Apache-2.0",
            provenance=Provenance("", "", {}, "2026-11-22T00:00:00Z"),
            image=ImageTransform("squash", SIDE, SIDE),
            prompt=Prompt(NANO_TEMPLATE, "<image>", GRID * GRID),
            stop_ids=(tokenizer.token_to_id("<eos>"),),
            grounding=grounding or Grounding("edge_mm", 128, "head"),
            decoder=DecoderGeometry(layers, KV_HEADS, HEAD_DIM, CONTEXT, VOCAB, HIDDEN),
            graphs={"cpu": GraphSet("vision.cpu.onnx", "decoder.cpu.onnx", "fp32")},
        ),
    )
    return folder


def _region_keys() -> np.ndarray:
    keys = np.random.default_rng(3).standard_normal((GRID * GRID, KEY)).astype(np.float32)
    return keys / np.linalg.norm(keys, axis=1, keepdims=True)


def _vision() -> onnx.ModelProto:
    project = np.random.default_rng(5).standard_normal((3, HIDDEN)).astype(np.float32)
    nodes = [
        helper.make_node(
            "AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]
        ),
        helper.make_node("Reshape", ["pooled", "flat"], ["cells"]),
        helper.make_node("Transpose", ["cells"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "project"], ["image_embeds"]),
        helper.make_node("Identity", ["keys"], ["region_keys"]),
        helper.make_node("Identity", ["boxes"], ["region_boxes"]),
    ]
    outputs = {"image_embeds": HIDDEN, "region_keys": KEY, "region_boxes": 6}
    return _model(
        nodes,
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, GRID * GRID, size])
            for name, size in outputs.items()
        ],
        {
            "flat": np.array([1, 3, GRID * GRID], np.int64),
            "project": project,
            "keys": _region_keys()[None],
            "boxes": _region_boxes()[None],
        },
    )


def _attention_decoder() -> onnx.ModelProto:
    cache = [1, KV_HEADS, CONTEXT, HEAD_DIM]
    nodes = [
        helper.make_node("Concat", ["embedding", "image_embeds"], ["table"], axis=0),
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        *(helper.make_node("MatMul", ["x", name], [f"x{name}"]) for name in "qkv"),
        helper.make_node(
            "GroupQueryAttention",
            [
                *("xq", "xk", "xv", "past_key_values.0.key", "past_key_values.0.value"),
                *("seqlens_k", "total_sequence_length", "cos", "sin"),
            ],
            ["attended", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        ),
        helper.make_node("MatMul", ["attended", "o"], ["mixed"]),
        helper.make_node("Add", ["x", "mixed"], ["y"]),
        helper.make_node("Gather", ["y", "last"], ["final"], axis=1),
        helper.make_node("MatMul", ["final", "lm_head"], ["logits"]),
        helper.make_node("MatMul", ["final", "region"], ["region_query"]),
    ]
    past = [
        helper.make_tensor_value_info(f"past_key_values.0.{part}", TensorProto.FLOAT, cache)
        for part in ("key", "value")
    ]
    present = [
        helper.make_tensor_value_info(f"present.0.{part}", TensorProto.FLOAT, cache)
        for part in ("key", "value")
    ]
    weights = {**_decoder_weights(), "last": np.array(-1, np.int64)}
    return _model(nodes, _decoder_inputs() + past, _decoder_outputs() + present, weights)


def _table_decoder(logits: np.ndarray, query: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Gather", ["input_ids", "last"], ["id"], axis=1),
        helper.make_node("Min", ["id", "most"], ["row"]),
        helper.make_node("Gather", ["logits_table", "row"], ["logits"]),
        helper.make_node("Gather", ["query_table", "row"], ["region_query"]),
    ]
    weights = {
        "last": np.array(-1, np.int64),
        "most": np.array(VOCAB - 1, np.int64),
        "logits_table": logits,
        "query_table": query,
    }
    return _model(nodes, _decoder_inputs(), _decoder_outputs(), weights)


def _decoder_inputs() -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "S"]),
        helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["T", HIDDEN]),
        helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, [1]),
    ]


def _decoder_outputs() -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, VOCAB]),
        helper.make_tensor_value_info("region_query", TensorProto.FLOAT, [1, KEY]),
    ]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)
