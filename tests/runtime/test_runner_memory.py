"""OnnxRunner on the CPU: no plan of shared buffers is made, and buffers are shared all the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edge_mm_runtime.measure import held
from edge_mm_runtime.runner import OnnxRunner, _options

STEPS, LENGTH = 64, 1 << 20  # a tensor takes 4 MB


def _chain(path: Path) -> None:
    """y = x + STEPS, a step at a time (x + 2 - x/x), of a length that the graph leaves open."""
    tensor = helper.make_tensor_value_info
    names = ["x", *(f"x{n}" for n in range(1, STEPS)), "y"]
    nodes = []
    for n, (read, written) in enumerate(pairwise(names)):
        nodes.append(helper.make_node("Add", [read, "two"], [f"more{n}"]))
        nodes.append(helper.make_node("Div", [read, read], [f"one{n}"]))
        nodes.append(helper.make_node("Sub", [f"more{n}", f"one{n}"], [written]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [tensor("x", TensorProto.FLOAT, ["n"])],
        [tensor("y", TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), str(path))


def test_a_buffer_is_given_out_again_once_it_is_read(tmp_path: Path) -> None:
    _chain(tmp_path / "chain.onnx")
    x = np.arange(1, LENGTH + 1, dtype=np.float32)
    with OnnxRunner(tmp_path / "chain.onnx", 1) as runner:
        before = held().memory_bytes
        found = runner.run({"x": x})["y"]
        after = held().memory_bytes
    np.testing.assert_array_equal(found, x + STEPS)  # small whole numbers: exact in fp32
    assert before is not None and after is not None
    assert after - before < 12 * x.nbytes  # all 192 tensors take 800 MB


def test_only_the_cpu_goes_without_the_plan() -> None:
    def planned(provider: str) -> bool:
        options = _options(onnxruntime, 1, provider)  # type: ignore[arg-type]
        return bool(options.enable_mem_reuse)

    assert (planned("cpu"), planned("cuda")) == (False, True)
