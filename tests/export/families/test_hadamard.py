"""A decoder with a rotated residual stream is the same decoder, in every family that allows it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import scipy.linalg

from edge_mm_export import hadamard
from edge_mm_export.decoder import build_decoder
from edge_mm_export.precision import BLOCK, PRECISIONS

from .conftest import Stepper
from .test_text import CONFIGS, PROMPT, expected_passes, parts_of, tiny

NORMED_AGAIN = ("gemma2", "gemma3")
INT8 = PRECISIONS["cpu"]["int8"]
SMALL = INT8._replace(block=BLOCK)


@pytest.mark.parametrize(("size", "block"), [(576, 64), (96, 32), (80, 16), (6, 2), (7, 1)])
def test_blocks_are_sylvesters_and_undo_themselves(size: int, block: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, size)).astype(np.float32)
    matrix = scipy.linalg.hadamard(block) / block**0.5
    expected = x @ scipy.linalg.block_diag(*[matrix] * (size // block))
    np.testing.assert_allclose(hadamard.rotate(x), expected, atol=1e-5)
    np.testing.assert_allclose(hadamard.rotate(hadamard.rotate(x)), x, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in NORMED_AGAIN])
def test_a_rotated_decoder_gives_the_logits_of_transformers(name: str, step: Stepper) -> None:
    model = tiny(name)
    spec, weights, _ = hadamard.rotated(*parts_of(model), INT8)
    assert spec.rotated
    decoder = step(spec, weights, "cpu", "fp32")
    for new, logits in expected_passes(model):
        np.testing.assert_allclose(decoder.feed(new), logits, atol=2e-4)


@pytest.mark.parametrize("name", NORMED_AGAIN)
def test_what_cannot_be_rotated_stays(name: str) -> None:
    spec, weights = parts_of(tiny(name))
    assert hadamard.rotated(spec, weights, INT8) == (spec, weights, SMALL)
    graph = build_decoder(spec, weights, target="cpu", precision="int8").graph
    assert block_sizes(graph) == {32}  # large ones lose too much where nothing is rotated
    for changes in ({"deepstack": 1}, {"gated_blocks": (0,)}):
        other = msgspec.structs.replace(spec, post_norms=False, **changes)
        assert hadamard.rotated(other, weights, INT8) == (other, weights, SMALL)


def block_sizes(graph: Iterable[ir.Node]) -> set[int]:
    nodes = [node for node in graph if node.op_type == "MatMulNBits"]
    return {node.attributes["block_size"].as_int() for node in nodes}


def test_weights_are_there_by_name() -> None:
    spec, weights = parts_of(tiny("smollm2"))  # tied: the head is the table until it is rotated
    del weights["lm_head.weight"]
    _, rotated, _ = hadamard.rotated(spec, weights, INT8)
    assert set(rotated) == {*weights, "lm_head.weight"} and len(rotated) == len(weights) + 1
    assert "lm_head.weight" in rotated and "other" not in rotated
    table = weights["model.embed_tokens.weight"]
    heads = hadamard.rotate(rotated["lm_head.weight"]) / weights["model.norm.weight"]
    np.testing.assert_allclose(heads, table, atol=1e-5)


def test_an_outlier_in_the_stream_costs_less(step: Stepper) -> None:
    """One wide channel, as language models have them, and what 8-bit inputs make of the rest."""
    model = tiny("llama")
    spec, weights = parts_of(model)
    weights = {name: value.copy() for name, value in weights.items()}
    weights["model.embed_tokens.weight"][:, 3] += 20
    exact = step(spec, weights, "cpu", "fp32").feed(PROMPT)
    lost = {}
    for rotated in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not rotated:
                patch.setattr("edge_mm_export.decoder.rotated", lambda *parts: parts)
            found = step(spec, weights, "cpu", "w8a8").feed(PROMPT)
        lost[rotated] = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert lost[True] < lost[False] / 1.5


@pytest.mark.parametrize("target", PRECISIONS)
def test_only_decoders_whose_inputs_are_rounded_are_rotated(target: str) -> None:
    spec, weights = parts_of(tiny("llama"))

    def drawn(precision: str) -> Iterable[str]:
        model = build_decoder(spec, weights, target=target, precision=precision)
        return model.graph.initializers

    turned = {
        name
        for name, stored in PRECISIONS[target].items()
        if not stored.needs_scales and "rotation_64" in drawn(name)
    }
    assert turned == (set(PRECISIONS["cpu"]) - {"fp32"} if target == "cpu" else set())
