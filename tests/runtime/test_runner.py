"""OnnxRunner: what it takes, what it gives, what it says when it cannot."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.runner import CountedRunner, OnnxRunner


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


@pytest.mark.parametrize("size", [3, 300])  # small ones are written where the last one is bound
@pytest.mark.parametrize("is_open", [False, True])
def test_each_run_has_the_inputs_of_its_own(tmp_path: Path, size: int, is_open: bool) -> None:
    tensor = helper.make_tensor_value_info
    shape = ["n" if is_open else size]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["twice"])],
        "twice",
        [tensor("x", TensorProto.FLOAT, shape)],
        [tensor("twice", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "twice.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), str(path))
    x = np.arange(size, dtype=np.float32)
    wide = np.arange(2 * size, dtype=np.float32)
    given, found = [], []

    def run(array: np.ndarray) -> None:
        given.append(array.copy())
        found.append(runner.run({"x": array})["twice"])

    with OnnxRunner(path, 1) as runner:
        run(x)
        x += 1  # the same array with another content
        run(x)
        run(x + 5)
        run(x)
        scattered = wide[::2]
        run(scattered)
        wide += 7
        run(scattered)
        if is_open:
            run(x[:2])
            run(x)
        with pytest.raises(ValueError, match="it was given float64"):
            runner.run({"x": x.astype(np.float64)})
    np.testing.assert_array_equal(x, np.arange(size) + 1)  # the caller's, as the outputs are
    for array, twice in zip(given, found, strict=True):  # those of earlier runs are as they were
        np.testing.assert_array_equal(twice, 2 * array)


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


def test_a_provider_that_is_not_there_is_named(counter: Path) -> None:
    with pytest.raises(
        BundleError,
        match=r"asked for CUDAExecutionProvider, onnxruntime \S+ gives .*CPUExecutionProvider: "
        r".*pip install 'edge-mm\[gpu\]'",
    ):
        OnnxRunner(counter, provider="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_falls_back_in_silence_is_named(
    counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What an onnxruntime-gpu does whose CUDA libraries do not load: it names the provider, then
    # opens the graph on the CPU without raising.
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    assert onnxruntime.InferenceSession(counter, providers=names).get_providers() == names[1:]
    with pytest.raises(
        BundleError,
        match=r"asked for CUDAExecutionProvider, onnxruntime \S+ gives CPUExecutionProvider: ",
    ):
        OnnxRunner(counter, provider="cuda")


def test_it_is_quiet_between_runs(tmp_path: Path) -> None:
    tensor = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.zeros((512, 512), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large enough for several threads",
        [tensor("x", TensorProto.FLOAT, [256, 512])],
        [tensor("y", TensorProto.FLOAT, [256, 512])],
        [weight],
    )
    path = tmp_path / "graph.onnx"
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), str(path))
    idle_s = 0.5
    with OnnxRunner(path, 2) as runner:
        for _ in range(3):
            runner.run({"x": np.zeros((256, 512), np.float32)})
        used = time.process_time()  # of all threads: what others do on this machine counts nothing
        time.sleep(idle_s)
        used = time.process_time() - used
    assert used < 0.02 * idle_s


def test_runs_are_counted(counter: Path) -> None:
    class Echo:
        def __init__(self) -> None:
            self.inputs, self.outputs = OnnxRunner(counter, 1).inputs, {}

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(inputs)

        def close(self) -> None:
            self.inputs = {}

    runner = CountedRunner(Echo())  # type: ignore[arg-type]
    for ids in ([[1, 2, 3]], [[4]]):
        assert runner.run({"input_ids": np.array(ids)})["input_ids"].tolist() == ids
    assert runner.passes == 2
