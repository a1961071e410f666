"""The 8-bit tower: its arithmetic against numpy, its answers against torch, its kernels by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from edge_mm.model.edge_mm import EdgeMM
from edge_mm_export.checkpoint import open_checkpoint
from edge_mm_export.export import export_checkpoint
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.samples import read_samples
from edge_mm_export.steps import Calibration, Exam, Source, Step
from edge_mm_export.verify import Gate
from edge_mm_export.vision import halved, stored_vision
from edge_mm_export.vision_int8 import int8_linears, measured_int8
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.openvino import OpenVinoRunner
from edge_mm_runtime.runner import OnnxRunner

from .conftest import kinds


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def convolved(traced: ir.Model, tmp_path_factory: pytest.TempPathFactory) -> ir.Model:
    """The tiny tower, measured."""
    scratch = tmp_path_factory.mktemp("scratch")
    return measured_int8(traced, (frame(seed) for seed in range(4)), scratch)


def test_a_product_is_that_of_the_rounded_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.standard_normal((2, 48, 24)).astype("f4"), random.random(24, "f4")
    pixel_values = random.uniform(-1, 3, (1, 5, 48)).astype("f4")
    found = run(int8_linears(linears(weight, bias)), pixel_values, tmp_path)

    low, high = min(pixel_values.min(), 0), max(pixel_values.max(), 0)
    step = (high - low) / 255
    x = (np.rint(pixel_values / step) - np.rint(low / step)).clip(0, 255) + np.rint(low / step)
    for index, part in enumerate(weight):
        scale = np.abs(part).max(axis=0) / 127
        expected = (x * step) @ (np.rint(part / scale) * scale) + bias * (index == 0)
        np.testing.assert_allclose(found[f"y{index}"], expected, atol=1e-3)
        assert np.abs(expected - pixel_values @ part - bias * (index == 0)).max() > 1e-2


def test_an_input_of_several_products_is_rounded_once() -> None:
    weight = np.ones((2, 8, 4), np.float32)
    model = int8_linears(linears(weight, np.ones(4, np.float32)))
    assert kinds(model) == {"DynamicQuantizeLinear": 1, "MatMulIntegerToFloat": 2}
    assert {value.dtype for value in model.graph.initializers.values()} == {
        ir.DataType.INT8,
        ir.DataType.FLOAT,
    }


def test_every_linear_of_a_tower_is_one_of_integers(
    traced: ir.Model, edge_mm: EdgeMM, tmp_path: Path
) -> None:
    model = int8_linears(traced)
    modules = edge_mm.vision_graph().modules()
    wanted = sum(isinstance(module, torch.nn.Linear) for module in modules)
    assert kinds(model)["MatMulIntegerToFloat"] == wanted and not kinds(model)["MatMul"]
    assert kinds(model)["Conv"] == kinds(traced)["Conv"]
    agrees(edge_mm, run(model, frame(9), tmp_path), least=0.999)


def test_dense_inner_convolutions_become_8_bit_kernels(
    convolved: ir.Model, edge_mm: EdgeMM, tmp_path: Path
) -> None:
    found = run(convolved, frame(9), tmp_path)
    fused = kinds(ir.load(tmp_path / "fused.onnx"))
    dense = [
        module
        for module in edge_mm.vision_graph().modules()
        if isinstance(module, torch.nn.Conv2d)
        and module.groups == 1
        and module.kernel_size != (1, 1)
    ]
    assert fused["QLinearConv"] == len(dense) - 1  # without the one that reads the picture
    assert fused["QLinearAdd"] > 0
    agrees(edge_mm, found, least=0.97)


def test_measured_linears_become_8_bit_kernels(
    convolved: ir.Model, edge_mm: EdgeMM, tmp_path: Path
) -> None:
    run(convolved, frame(9), tmp_path)
    fused = kinds(ir.load(tmp_path / "fused.onnx"))
    modules = edge_mm.vision_graph().modules()
    wanted = sum(isinstance(module, torch.nn.Linear) for module in modules)
    assert not fused["MatMul"] + fused["Gemm"]
    assert fused["QGemm"] + fused["MatMulIntegerToFloat"] == wanted


def test_openvino_does_not_saturate_either(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight, bias = random.standard_normal((1, 64, 32)).astype("f4"), np.zeros(32, np.float32)
    frames = [random.uniform(-1, 1, (1, 5, 64)).astype("f4") for _ in range(3)]
    ir.save(measured_int8(linears(weight, bias), frames, tmp_path), tmp_path / "vision.onnx")
    with OpenVinoRunner(tmp_path / "vision.onnx", 1) as runner:
        (found,) = runner.run({"pixel_values": frames[0]}).values()
    exact = frames[0] @ weight[0]
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_a_bias_that_32_bits_cannot_hold_stays_exact(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((1, 8, 4)).astype("f4")
    weight[0, :, 2] = 1e-13  # an output that is all but its bias
    bias = np.array([1, -2, 3, -4], np.float32)
    frames = [np.random.default_rng(n).uniform(-1, 1, (1, 5, 8)).astype("f4") for n in range(3)]
    measured = measured_int8(linears(weight, bias), frames, tmp_path)
    found = run(measured, frames[0], tmp_path)["y0"]
    np.testing.assert_allclose(found, frames[0] @ weight[0] + bias, atol=0.1)
    np.testing.assert_allclose(found[..., 2], 3, atol=1e-6)


def test_a_tower_whose_only_convolution_cuts_patches_is_left_alone(tmp_path: Path) -> None:
    def no_frames() -> Any:
        raise AssertionError("frames were asked for")
        yield

    weight = ir.val("w", const_value=ir.tensor(np.ones((4, 3, 8, 8), np.float32), name="w"))
    x = ir.val("pixel_values", ir.DataType.FLOAT, [1, 3, 64, 64])
    node = ir.node("Conv", [x, weight], {"strides": [8, 8]})
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[weight], opset_imports={"": 23})
    model = ir.Model(graph, ir_version=10)
    assert measured_int8(model, no_frames(), tmp_path) is model


def test_only_w8a8_of_the_cpu_has_it(
    traced: ir.Model, convolved: ir.Model, edge_mm: EdgeMM, tmp_path: Path
) -> None:
    known = PRECISIONS["cpu"]
    assert stored_vision(traced, known["fp32"]) is traced
    assert kinds(stored_vision(traced, known["int8"])) == kinds(halved(traced))
    assert kinds(stored_vision(traced, known["w8a8"]))["MatMulIntegerToFloat"]
    stored = stored_vision(convolved, known["w8a8"])
    assert kinds(stored)["DequantizeLinear"] and not kinds(stored)["MatMulIntegerToFloat"]
    assert (
        kinds(stored)["Transpose"] == kinds(convolved)["Transpose"] - 4 * kinds(stored)["Attention"]
    )
    agrees(edge_mm, run(stored, frame(9), tmp_path), least=0.97)


def test_scales_are_not_halved() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 8, 2048)).astype("f4")
    bias = np.zeros(2048, np.float32)
    stored = stored_vision(linears(weight, bias), PRECISIONS["cpu"]["w8a8"])
    assert "Cast" not in kinds(stored)


def test_a_step_measures_each_frame_once_if_it_is_given_frames(
    checkpoint: Path, frames: Path, traced: ir.Model, tmp_path: Path
) -> None:
    samples = read_samples(frames)
    subject = open_checkpoint(checkpoint)
    exact, step, plain = (
        Step("cpu", "fp32", tmp_path),
        Step("cpu", "w8a8", tmp_path),
        Step("cpu", "w8a8", tmp_path),
    )
    exact.write(Source(subject, traced))
    plain.quantise(Source(subject, traced), exact)
    assert plain.quantisation == "rounded to nearest"
    source = Source(subject, traced, Calibration("kitchen", samples))
    step.quantise(source, exact)
    pictures = len({sample.picture for sample in samples})
    assert len(samples) > pictures
    assert step.quantisation == (
        f"rounded to nearest; tower measured on {pictures} frames of kitchen"
    )
    step.write(source)
    written = kinds(ir.load(step.folder / "vision.cpu.onnx"))
    assert written["DequantizeLinear"] and not written["MatMulIntegerToFloat"]


def test_a_tower_of_convolutions_alone_is_given_up_whole(
    checkpoint: Path, frames: Path, traced: ir.Model, tmp_path: Path
) -> None:
    pixels = ir.val("pixel_values", ir.DataType.FLOAT, [1, 3, 64, 64])
    value, nodes, weights = pixels, [], []
    for index, channels in enumerate((3, 4, 4)):
        kernel = np.full((4, channels, 3, 3), 0.1, np.float32)
        weight = ir.val(f"w{index}", const_value=ir.tensor(kernel, name=f"w{index}"))
        nodes.append(ir.node("Conv", [value, weight], {"pads": [1] * 4}, name=f"conv{index}"))
        (value,) = nodes[-1].outputs
        value.name, value.type = f"y{index}", ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape([1, 4, 64, 64])
        weights.append(weight)
    graph = ir.Graph([pixels], [value], nodes=nodes, initializers=weights, opset_imports={"": 23})
    source = Source(
        open_checkpoint(checkpoint),
        ir.Model(graph, ir_version=10),
        Calibration("kitchen", read_samples(frames)),
    )
    exact, step = Step("cpu", "fp32", tmp_path), Step("cpu", "w8a8", tmp_path)
    exact.write(Source(source.subject, traced))
    step.quantise(source, exact)
    assert "tower measured" in step.quantisation
    assert step.spare_convolutions(source, exact)
    assert step.quantisation == "rounded to nearest"
    step.write(source)
    assert kinds(ir.load(step.folder / "vision.cpu.onnx")) == {"Conv": 3}
    assert not step.spare_convolutions(source, exact)


def test_convolutions_below_the_gate_are_given_up(
    checkpoint: Path,
    frames: Path,
    others: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exam that only graphs with fp32 convolutions pass."""
    sit = Step.sit

    def strict(step: Step, exam: Exam) -> list[str]:
        missed = sit(step, exam)
        written = ir.load(step.folder / "vision.cpu.onnx")
        dense = [node for node in written.graph if node.op_type == "Conv"]
        in_8_bits = [node for node in dense if _kind(node.inputs[0]) == "DequantizeLinear"]
        return missed or (["convolutions"] if in_8_bits else [])

    monkeypatch.setattr(Step, "sit", strict)
    gate = Gate(logits_cosine=0.8, same_answers=0, mean_iou=0, within_half_bin=0)
    out = export_checkpoint(
        checkpoint,
        tmp_path / "out",
        frames=frames,
        calibration=others,
        precision="w8a8",
        gate=gate,
    )
    told = load_bundle(out).manifest.verification["quantisation"]
    assert told.endswith("frames of others, its convolutions in fp32")
    written = ir.load(out / "vision.cpu.onnx")
    assert kinds(written)["DequantizeLinear"] and kinds(written)["Conv"]


def _kind(value: ir.Value | None) -> str | None:
    producer = None if value is None else value.producer()
    return None if producer is None else producer.op_type


def linears(weights: np.ndarray, bias: np.ndarray) -> ir.Model:
    """pixel_values times each of `weights`: y0 with a bias, the others without."""
    x = ir.val("pixel_values", ir.DataType.FLOAT, [1, None, weights.shape[1]])
    constants = [
        ir.val(name, const_value=ir.tensor(value, name=name))
        for name, value in [("b", bias), *((f"w{i}", w) for i, w in enumerate(weights))]
    ]
    nodes, outputs = [], []
    for index, weight in enumerate(constants[1:]):
        nodes.append(ir.node("MatMul", [x, weight]))
        nodes[-1].outputs[0].name = f"product{index}"
        if index == 0:
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], constants[0]]))
        (y,) = nodes[-1].outputs
        y.name, y.dtype = f"y{index}", ir.DataType.FLOAT
        y.shape = ir.Shape([1, None, weights.shape[2]])
        outputs.append(y)
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=constants, opset_imports={"": 23})
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, pixel_values: np.ndarray, folder: Path) -> dict[str, Any]:
    """Run a graph; what ONNX Runtime made of it lies in fused.onnx."""
    ir.save(model, folder / "vision.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "vision.onnx", options)
    with OnnxRunner(folder / "vision.onnx", 1) as runner:
        return runner.run({"pixel_values": pixel_values})


@torch.no_grad()
def agrees(edge_mm: EdgeMM, found: dict[str, Any], least: float) -> None:
    """Each output is near torch's for frame(9), and not the same."""
    exact = edge_mm.vision_graph()(torch.from_numpy(frame(9)))
    for (name, value), expected in zip(found.items(), exact, strict=True):
        one, other = value.ravel(), expected.numpy().ravel()
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert least < cosine < 1 - 1e-9, name
