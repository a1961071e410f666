"""Models whose values leave the range of fp16: what is kept in fp32 by itself, and what is said."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

import edge_mm_export.export as export_module
from edge_mm.model.edge_mm import EdgeMM
from edge_mm_export.bundle import write_graphs
from edge_mm_export.checkpoint import Checkpoint
from edge_mm_export.decoder import build_decoder
from edge_mm_export.errors import ExportError, VerificationError
from edge_mm_export.export import export_checkpoint
from edge_mm_export.islands import Islands, decoder_parts, with_islands
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.verify import Gate
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.engines.build import build_engines

from .conftest import TinyDecoder, write_checkpoint

LINEARS = {f"layers.{i}.{part}" for i in range(3) for part in ("qkv", "o", "gate_up", "down")}
LINEARS |= {"lm_head"}
LOOSE = Gate(logits_cosine=0.99, same_answers=0, mean_iou=0, within_half_bin=0)
NEAR = Gate(logits_cosine=0.999, same_answers=1.0, mean_iou=0.98, within_half_bin=0.8)


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, traced: ir.Model) -> Callable[[ir.Model], None]:
    """`trace(model)`: what tracing the vision graph gives from now on."""

    def give(model: ir.Model) -> None:
        monkeypatch.setattr(export_module, "trace_vision", lambda *args, **options: model)

    give(traced)
    return give


def export(checkpoint: Path, frames: Path, out: Path, target: str, **options: Any) -> Islands:
    """Export, under a strict gate unless another one is given: the manifest's islands."""
    options = {"frames": frames, "target": target, "gate": NEAR} | options
    export_checkpoint(checkpoint, out, **options)
    kept = load_bundle(out).manifest.verification["fp32_islands"]
    return Islands(tuple(kept["vision"]), tuple(kept["decoder"]))


def scaled_norm(traced: ir.Model) -> tuple[ir.Model, str]:
    """The same function, but a LayerNorm's output times 2^15, which the next weights take back."""
    model = traced.clone()
    norm = next(node for node in model.graph if node.op_type == "LayerNormalization")
    users = [user for user, _ in norm.outputs[0].uses()]
    assert {user.op_type for user in users} == {"MatMul"}
    places = [(norm, 1, 2.0**15), (norm, 2, 2.0**15), *((user, 1, 2.0**-15) for user in users)]
    for node, index, factor in places:
        value = node.inputs[index]
        name = f"{value.name}.{node.name}"  # norms may share a constant
        scaled = ir.tensor(value.const_value.numpy() * np.float32(factor), name=name)
        stored = ir.val(name, const_value=scaled)
        stored.type, stored.shape = value.type, value.shape
        model.graph.register_initializer(stored)
        node.replace_input_with(index, stored)
    return model, str(norm.name)


def test_a_layer_norm_of_the_vision_graph(
    checkpoint: Path,
    frames: Path,
    tmp_path: Path,
    traced: ir.Model,
    trace: Callable[[ir.Model], None],
) -> None:
    model, name = scaled_norm(traced)
    trace(model)
    with pytest.raises(VerificationError, match=f"vision node {name} ") as failure:
        export(checkpoint, frames, tmp_path / "out", "cuda", most_islands=0)
    assert "not finite" in str(failure.value) and "--precision" in str(failure.value)
    assert list(tmp_path.iterdir()) == []
    said: list[str] = []
    islands = export(checkpoint, frames, tmp_path / "out", "cuda", say=said.append)
    assert name in islands.vision and not islands.decoder
    assert any(f"in fp32: vision {name}" in line for line in said)
    assert name in (tmp_path / "out" / "report.html").read_text()


def overflowing_mlp(model: EdgeMM) -> EdgeMM:
    """gate x up of the first layer beyond 65504; what goes into the residual is small again."""
    layer = model.lm.model.layers[0]
    layer.post_attention_layernorm.weight.data *= 2.0**8
    layer.mlp.down_proj.weight.data *= 2.0**-4
    return model


def overflowing_logits(model: EdgeMM) -> EdgeMM:
    """Queries times keys of the first layer beyond 65504, by which attention becomes a choice."""
    attention = model.lm.model.layers[0].self_attn
    attention.q_proj.weight.data *= 2.0**9
    attention.k_proj.weight.data *= 2.0**9
    return model


@pytest.mark.usefixtures("trace")
def test_the_logits_of_an_attention(edge_mm: EdgeMM, frames: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "large", overflowing_logits(copy.deepcopy(edge_mm)))
    islands = export(checkpoint, frames, tmp_path / "out", "tensorrt-10.3")
    assert not islands.vision
    assert {"layers.0.MatMul.0", "layers.0.Softmax.0"} <= set(islands.decoder)


@pytest.mark.usefixtures("trace")
def test_an_mlp_in_fp16_and_quantised(edge_mm: EdgeMM, frames: Path, tmp_path: Path) -> None:
    """The quantised step starts with the islands of the one before."""
    checkpoint = write_checkpoint(tmp_path / "large", overflowing_mlp(copy.deepcopy(edge_mm)))
    said: list[str] = []
    options: dict[str, Any] = {"precision": "int8", "gate": LOOSE, "say": said.append}
    with pytest.raises(VerificationError, match=r"decoder layers\.0\.Mul\.1 "):
        export(checkpoint, frames, tmp_path / "out", "tensorrt", most_islands=0, **options)
    islands = export(checkpoint, frames, tmp_path / "out", "tensorrt", **options)
    assert islands == Islands((), ("layers.0.Mul.1", "layers.0.down"))
    assert sum("once more, in fp32" in line for line in said) == 1
    manifest = load_bundle(tmp_path / "out").manifest
    _, fp16, _ = manifest.verification["steps"]
    assert fp16["same_answers"] == 1.0 and fp16["logits_cosine_min"] > 0.9999
    parts = decoder_parts(ir.load(tmp_path / "out" / "decoder.tensorrt.onnx"))
    for name, dtype in (("layers.0.down", ir.DataType.FLOAT), ("layers.0.o", ir.DataType.FLOAT16)):
        assert {node.outputs[0].dtype for node in parts[name]} == {dtype}


def test_digits_that_are_lost_need_what_made_them_too(
    checkpoint: Path,
    frames: Path,
    tmp_path: Path,
    traced: ir.Model,
    trace: Callable[[ir.Model], None],
) -> None:
    """Boxes plus 10,000, minus 10,000: the difference drifts first, the sum has rounded it."""
    model = traced.clone()
    last = next(v.producer() for v in model.graph.outputs if v.name == "region_boxes")
    assert last is not None
    value = boxes = last.inputs[0]
    many = ir.val("many", const_value=ir.tensor(np.array(1e4, np.float32), name="many"))
    many.type, many.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([])
    model.graph.register_initializer(many)
    for operator in ("Add", "Sub"):
        node = ir.node(operator, [value, many], name=f"{operator} many")
        (value,) = node.outputs
        value.name, value.type, value.shape = operator, boxes.type, boxes.shape
        model.graph.insert_before(last, node)
    last.replace_input_with(0, value)
    trace(model)
    with pytest.raises(VerificationError, match=r"vision node Sub many \(Sub\)") as failure:
        export(checkpoint, frames, tmp_path / "out", "cuda", most_islands=1)
    assert "in fp32 already: vision Sub many" in str(failure.value)
    islands = export(checkpoint, frames, tmp_path / "out", "cuda")
    assert islands == Islands(("Sub many", "Add many"))


@pytest.mark.parametrize("target", ["tensorrt", "cuda"])
def test_parts_have_the_same_names_in_every_precision(target: str) -> None:
    tiny = TinyDecoder(tied=True)
    names = []
    for precision in PRECISIONS[target]:
        scales = dict.fromkeys(LINEARS, 0.01)
        decoder = build_decoder(
            tiny.spec, tiny.weights(), target=target, precision=precision, scales=scales
        )
        names.append(list(decoder_parts(decoder)))
    assert names == [names[0]] * len(names)
    assert set(names[0]) >= LINEARS


def test_a_part_that_is_not_there() -> None:
    tiny = TinyDecoder(tied=True)
    decoder = build_decoder(tiny.spec, tiny.weights(), target="cuda")
    with pytest.raises(ExportError, match=r"no part 'layers\.9\.down'"):
        with_islands(decoder, ["layers.9.down"])


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="builds real engines: pip install 'edge-mm[rtx]'",
)
def test_engines_take_islands(
    checkpoint: Path, edge_mm: EdgeMM, traced: ir.Model, tmp_path: Path
) -> None:
    heads = msgspec.structs.replace(
        edge_mm.config.language, num_attention_heads=4, num_key_value_heads=2, head_dim=16
    )
    model = EdgeMM(msgspec.structs.replace(edge_mm.config, language=heads)).eval()
    norm = next(node for node in traced.graph if node.op_type == "LayerNormalization")
    write_graphs(
        tmp_path / "bundle",
        Checkpoint(checkpoint, model),
        traced,
        target="tensorrt",
        precision="w8a8",
        scales=dict.fromkeys(LINEARS, 0.01),
        islands=Islands((str(norm.name),), ("layers.0.Mul.1", "layers.0.down", "layers.0.Add.1")),
    )
    built = build_engines(load_bundle(tmp_path / "bundle"), compute_capability=89)
    assert set(built.manifest.plans) == {"vision", "decoder"}
