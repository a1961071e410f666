"""OnnxRunner: what it takes, what it gives, what it says when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.runner import OnnxRunner


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """total' = total + x; twice = 2 x."""
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["total", "x"], ["new_total"]),
            helper.make_node("Add", ["x", "x"], ["twice"]),
        ],
        "counter",
        [tensor("x", TensorProto.FLOAT, ["n"]), tensor("total", TensorProto.FLOAT, [2])],
        [tensor("new_total", TensorProto.FLOAT, [2]), tensor("twice", TensorProto.FLOAT, ["n"])],
    )
    path = tmp_path / "counter.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), str(path))
    return path


def test_state_stays_between_runs(counter: Path) -> None:
    with OnnxRunner(counter, 1, state={"total": ("new_total", (2,))}) as runner:
        assert (list(runner.inputs), list(runner.outputs)) == (["x"], ["twice"])
        for _ in range(3):
            outputs = runner.run({"x": np.array([1, 2], np.float32)})
        buffer = runner._state[0].numpy()
        np.testing.assert_array_equal(buffer, [3, 6])
        np.testing.assert_array_equal(outputs["twice"], [2, 4])


def test_outputs_are_the_callers_own(counter: Path) -> None:
    with OnnxRunner(counter, 1) as runner:
        total = np.zeros(2, np.float32)
        first = runner.run({"x": np.array([1, 2], np.float32), "total": total})
        runner.run({"x": np.array([5, 6], np.float32), "total": total})
        np.testing.assert_array_equal(first["twice"], [2, 4])


def test_wrong_inputs_are_told(counter: Path) -> None:
    runner = OnnxRunner(counter, 1)
    x, total = np.zeros(2, np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"takes \['total', 'x'\], it was given \['x'\]"):
        runner.run({"x": x})
    with pytest.raises(ValueError, match=r"input x is float32\['\?'\], it was given float64\[2\]"):
        runner.run({"x": x.astype(np.float64), "total": total})
    with pytest.raises(ValueError, match=r"input total is float32\[2\], it was given float32\[3\]"):
        runner.run({"x": x, "total": np.zeros(3, np.float32)})
    runner.close()
    with pytest.raises(ValueError, match="is closed"):
        runner.run({"x": x, "total": total})


def test_a_graph_that_cannot_be_loaded_is_named(tmp_path: Path, counter: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"onnxruntime \S+ refuses .*broken.onnx"):
        OnnxRunner(broken)
    with pytest.raises(BundleError, match=r"no state past -> present"):
        OnnxRunner(counter, 1, state={"past": ("present", (1,))})
