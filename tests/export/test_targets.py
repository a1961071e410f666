"""Every target and precision against transformers fp32: prefill, append, sixteen single steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edge_mm_export.cast import emulated
from edge_mm_export.decoder import build_decoder
from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.hadamard import rotated
from edge_mm_export.precision import PRECISIONS, export_steps
from edge_mm_export.quantise import quantise_blocks

PROMPT = [1, 96, 97, 98, 99, 100, 7, 20, 33]  # ids 96..100 are the five rows of the picture
APPENDED = [44, 2, 95, 61]
STEPS = 16

FLOATS = {  # largest difference of a logit; they lie within +-3.5
    ("cpu", "fp32"): 1e-4,
    ("cuda", "fp16"): 0.02,
    ("tensorrt", "fp16"): 0.02,
    ("tensorrt-10.3", "fp16"): 0.02,
    ("tensorrt-10.3", "fp32"): 1e-4,
}
ROUNDED = {  # lowest cosine of the logits; 4-bit weights move a random model far
    ("cpu", "int8"): 0.997,
    ("cpu", "int4"): 0.8,
    ("cpu", "w8a8"): 0.99,
    ("cpu", "w8a8-tensor"): 0.97,
    ("cuda", "int8"): 0.997,
    ("cuda", "int4"): 0.8,
    ("tensorrt", "int8"): 0.995,
    ("tensorrt", "int8-channel"): 0.995,
    ("tensorrt", "int4"): 0.8,
    ("tensorrt", "w8a8"): 0.98,
    ("tensorrt", "fp8"): 0.95,
    ("tensorrt-10.3", "int8"): 0.995,
    ("tensorrt-10.3", "w8a8"): 0.98,
}
LINEARS = [
    "lm_head",
    *(f"layers.{i}.{n}" for i in range(3) for n in ("qkv", "o", "gate_up", "down")),
]


@pytest.fixture(scope="session")
def expected(tiny: Any) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """(new ids, logits and region query after them) of each pass, by torch without a cache."""
    passes, ids, new = [], [], PROMPT
    for step in range(STEPS + 2):
        ids = ids + new
        passes.append((new, *tiny.last(ids)))
        new = APPENDED if step == 0 else [int(passes[-1][1].argmax())]
    return passes


def build(stepped: Any, target: str, precision: str) -> Any:
    stored = PRECISIONS[target][precision]
    if not stored.needs_scales:
        return stepped(precision, target)
    step = 6 / (448 if stored.weights == "fp8" else 127)
    return stepped(precision, target, scales=dict.fromkeys(LINEARS, step))


def test_every_pair_is_tested() -> None:
    every = {(target, name) for target, known in PRECISIONS.items() for name in known}
    assert every == FLOATS.keys() | ROUNDED.keys() | {("tensorrt", "bf16")}


@pytest.mark.parametrize(("target", "precision"), FLOATS)
def test_floats_give_the_tokens_of_transformers(
    stepped: Any, expected: Any, target: str, precision: str
) -> None:
    decoder = build(stepped, target, precision)
    for new, logits, query in expected:
        found, region = decoder.feed(new)
        assert found.dtype == region.dtype == np.float32
        np.testing.assert_allclose(found, logits, atol=FLOATS[target, precision])
        np.testing.assert_allclose(region, query, atol=FLOATS[target, precision])
        assert found.argmax() == logits.argmax()


@pytest.mark.parametrize(("target", "precision"), ROUNDED)
def test_rounded_weights_stay_close(
    stepped: Any, expected: Any, target: str, precision: str
) -> None:
    decoder = build(stepped, target, precision)
    for new, logits, _ in expected:
        found, _ = decoder.feed(new)
        cosine = found @ logits / np.linalg.norm(found) / np.linalg.norm(logits)
        assert ROUNDED[target, precision] < cosine < 0.99999


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-10.3"])
def test_a_shorter_prefix_is_read_again_after_another_continuation(
    stepped: Any, target: str
) -> None:
    decoder = build(stepped, target, "fp16")
    decoder.feed(PROMPT)
    first, _ = decoder.feed(APPENDED)
    decoder.length = len(PROMPT)
    decoder.feed([5, 6, 7, 8, 9, 10, 11])
    decoder.length = len(PROMPT)
    again, _ = decoder.feed(APPENDED)
    np.testing.assert_allclose(first, again, atol=1e-3)


def test_bf16_by_emulation(tiny: Any, expected: Any, tmp_path: Path) -> None:
    from .conftest import SteppedDecoder

    model = build_decoder(tiny.spec, tiny.weights(), target="tensorrt", precision="bf16")
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    ir.save(emulated(model), tmp_path / "bf16.onnx")
    image = tiny.image_embeds.numpy()
    decoder = SteppedDecoder(tmp_path / "bf16.onnx", tiny.spec, image, "tensorrt")
    largest = 0.0
    for new, logits, _ in expected:
        found, _ = decoder.feed(new)
        largest = max(largest, float(np.abs(found - logits).max()))
    assert 0.005 < largest < 0.15  # 8 bits of mantissa: eight times fp16's error, and not fp32's


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-10.3"])
def test_graphs_for_tensorrt_are_standard_onnx(tiny: Any, target: str) -> None:
    highest = {"tensorrt": 24, "tensorrt-10.3": 20}[target]
    for precision, stored in PRECISIONS[target].items():
        scales = dict.fromkeys(LINEARS, 0.05) if stored.needs_scales else None
        model = build_decoder(
            tiny.spec, tiny.weights(), target=target, precision=precision, scales=scales
        )
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        assert dict(model.graph.opset_imports) == {"": highest}
        (cache,) = {tuple(v.shape) for v in model.graph.inputs if v.name.startswith("past")}
        assert cache == (1, tiny.spec.kv_heads, tiny.spec.context, tiny.spec.head_dim)


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_given_weights_take_the_place_of_rounded_ones(
    tiny: Any, stepped: Any, tmp_path: Path, target: str
) -> None:
    from .conftest import SteppedDecoder

    weights = tiny.weights()
    name = "model.layers.1.mlp.down_proj.weight"
    scale_type = np.dtype(np.float32 if target == "cpu" else np.float16)
    _, graphs, _ = rotated(tiny.spec, weights, PRECISIONS[target]["int4"])
    given = quantise_blocks(-graphs[name], 4, scale_type)
    found, _ = stepped("int4", target, quantised={"layers.1.down": given}).feed(PROMPT)
    opposite = {**weights, name: -weights[name]}
    ir.save(
        build_decoder(tiny.spec, opposite, target=target, precision="int4"), tmp_path / "d.onnx"
    )
    image = tiny.image_embeds.numpy()
    expected, _ = SteppedDecoder(tmp_path / "d.onnx", tiny.spec, image, target).feed(PROMPT)
    np.testing.assert_array_equal(found, expected)
    block = 64 if target == "cpu" else 32
    with pytest.raises(
        ExportError, match=rf"layers\.0\.o is \(64, 160, 4, 32\), \(64, 64, 4, {block}\)"
    ):
        build_decoder(
            tiny.spec, weights, target=target, precision="int4", quantised={"layers.0.o": given}
        )


def test_what_cannot_be_drawn_is_told_in_one_line(tiny: Any) -> None:
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnsupportedError, "'tensorrt' has no precision 'fp32'", {"precision": "fp32"}),
        (ExportError, r"no activation scale for layers\.0\.qkv", {"precision": "w8a8"}),
    ]
    for kind, message, options in cases:
        with pytest.raises(kind, match=message) as caught:
            build_decoder(tiny.spec, tiny.weights(), target="tensorrt", **options)
        assert "\n" not in str(caught.value)


def test_weights_beyond_fp16_are_refused(tiny: Any) -> None:
    weights = tiny.weights()
    name = "model.layers.0.self_attn.o_proj.weight"
    weights[name] = np.full_like(weights[name], 1e5)
    with pytest.raises(ExportError, match=r"layers\.0\.o\.weight holds 100000.*bf16"):
        build_decoder(tiny.spec, weights, target="tensorrt", precision="fp16")


def test_steps_of_an_export() -> None:
    assert export_steps("cpu", "fp32") == (("cpu", "fp32"),)
    assert export_steps("cpu", "int4") == (("cpu", "fp32"), ("cpu", "int4"))
    assert export_steps("tensorrt", "bf16") == (("cpu", "fp32"), ("tensorrt", "bf16"))
    assert export_steps("tensorrt-10.3", "int8") == (
        ("cpu", "fp32"),
        ("tensorrt-10.3", "fp16"),
        ("tensorrt-10.3", "int8"),
    )
