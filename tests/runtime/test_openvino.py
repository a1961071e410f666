"""OpenVINO behind the Runner: it answers as ONNX Runtime does, and reports nothing to anybody."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_mm.demo.questions import shipped_frames
from edge_mm_runtime import Session
from edge_mm_runtime.agreement import cosine
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.image import read_image
from edge_mm_runtime.openvino import OpenVinoRunner, _saturates, open_openvino
from edge_mm_runtime.runner import OnnxRunner, WrappedRunner

CLOSE = 0.999  # cosine: where the processor has bf16, OpenVINO computes in it


def graph_of(path: Path, *nodes: onnx.NodeProto) -> Path:
    """x [n, 2] -> y [n, 2] through some nodes."""
    tensor = helper.make_tensor_value_info
    x, y = (tensor(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "graph", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    return graph_of(tmp_path / "twice.onnx", helper.make_node("Add", ["x", "x"], ["y"]))


def test_a_tower_gives_what_onnx_runtime_gives(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    path = bundle.path(bundle.graphs("cpu").vision)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with OnnxRunner(path, 1) as expected, OpenVinoRunner(path, 1) as runner:
        assert (runner.inputs, runner.outputs) == (expected.inputs, expected.outputs)
        outputs = runner.run({"pixel_values": pixels})
        for name, array in expected.run({"pixel_values": pixels}).items():
            assert outputs[name].shape == array.shape
            assert cosine(outputs[name], array) > CLOSE


@pytest.mark.parametrize(
    ("machine", "flags", "saturates"),
    [
        ("x86_64", "flags : avx2 fma", True),
        ("x86_64", "flags : avx2 avx512_vnni fma", False),
        ("x86_64", "flags : avx2 avx_vnni", False),
        ("x86_64", None, True),  # nothing is known
        ("aarch64", "Features : asimddp", False),
    ],
)
def test_where_8_bit_sums_saturate(
    machine: str,
    flags: str | None,
    saturates: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)
    assert _saturates(tmp_path / "cpuinfo") == saturates


def test_outputs_are_the_callers_own(twice: Path) -> None:
    with OpenVinoRunner(twice, 1) as runner:
        first = runner.run({"x": np.ones((3, 2), np.float32)})
        runner.run({"x": np.zeros((3, 2), np.float32)})
        np.testing.assert_array_equal(first["y"], np.full((3, 2), 2))
        across = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
        np.testing.assert_array_equal(runner.run({"x": across})["y"], 2 * across)


def test_wrong_inputs_are_told(twice: Path) -> None:
    runner = OpenVinoRunner(twice, 1)
    with pytest.raises(ValueError, match=r"takes \['x'\], it was given \[\]"):
        runner.run({})
    with pytest.raises(ValueError, match=r"x is float32\['\?', 2\], it was given float64\[1, 2\]"):
        runner.run({"x": np.zeros((1, 2))})
    with pytest.raises(ValueError, match=r"x is float32\['\?', 2\], it was given float32\[1, 3\]"):
        runner.run({"x": np.zeros((1, 3), np.float32)})
    runner.close()
    with pytest.raises(ValueError, match="is closed"):
        runner.run({"x": np.zeros((1, 2), np.float32)})


def test_a_graph_that_it_cannot_read_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(BundleError, match=r"refuses .*odd.onnx: .*com.microsoft.Frobnicate$"):
        OpenVinoRunner(graph_of(tmp_path / "odd.onnx", node))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"openvino \S+ refuses .*broken.onnx: Unable to read"):
        OpenVinoRunner(broken)


def test_the_decoder_stays_on_onnx_runtime(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert isinstance(open_openvino(bundle, "decoder", "cpu", 1), OnnxRunner)


def test_it_answers_as_onnx_runtime_does() -> None:
    class Seen(WrappedRunner):
        runs = 0

        def run(self, inputs):  # type: ignore[no-untyped-def]
            Seen.runs += 1
            return super().run(inputs)

    bundle = load_bundle()
    vision = Seen(open_openvino(bundle, "vision", "cpu", 1))
    frames = sorted(shipped_frames().glob("*.jpg"))[:2]
    with (
        Session(bundle, 1) as expected,
        Session(bundle, 1, device="openvino", vision=vision) as session,
    ):
        for path in frames:
            frame = read_image(path)
            answers = [one.ask(frame, "find the bottle") for one in (session, expected)]
            assert answers[0].found == answers[1].found
            for ours, theirs in zip(*(answer.objects for answer in answers), strict=True):
                assert ours.box_xyxy is not None and theirs.box_xyxy is not None
                np.testing.assert_allclose(ours.box_xyxy, theirs.box_xyxy, atol=16)
    assert Seen.runs == len(frames)


def test_graphs_of_another_target_are_refused(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with pytest.raises(BundleError, match="no graphs for target 'cuda', it has: cpu"):
        Session(bundle, device="openvino", target="cuda")
    bundle.manifest.graphs["cuda"] = bundle.manifest.graphs["cpu"]
    with pytest.raises(BundleError, match="openvino reads graphs of target cpu, not of cuda"):
        Session(bundle, device="openvino", target="cuda")


def in_a_process(code: str, home: Path) -> str:
    """What it prints; a user's home without a choice about telemetry, and no CI."""
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment | {"HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_it_reports_nothing(tmp_path: Path, twice: Path) -> None:
    code = f"""
import sys, time
asked = []
sys.addaudithook(lambda event, args: asked.append(event) if event.startswith("socket.") else None)
from pathlib import Path
from edge_mm_runtime.openvino import OpenVinoRunner
OpenVinoRunner(Path({str(twice)!r}), 1).close()
time.sleep(0.2)
print("openvino_telemetry" in sys.modules, asked)
"""
    home = tmp_path / "home"
    home.mkdir()
    assert in_a_process(code, home) == "False []"
    assert not list(home.iterdir())  # nor is an id made for this machine


def test_without_it_the_extra_is_named(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["openvino"] = None
from edge_mm_runtime import Session
from edge_mm_runtime.errors import MissingExtraError
try:
    Session(device="openvino")
except MissingExtraError as error:
    print(error)
"""
    assert "pip install 'edge-mm[openvino]'" in in_a_process(code, tmp_path)
