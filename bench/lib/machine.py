"""What this machine can do, and whether it is ours alone: the roofline and the contention guard."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import numpy_helper, parser

REPEATS = 5
_FLOATS = ("float", "float", "MatMul")


def read_bandwidth(threads: int, gigabytes: float = 1.0) -> float:
    """Bytes a second that `threads` read together from memory: the best of some passes."""
    count = int(gigabytes * 1e9 / 4 / threads)
    parts = [np.ones(count, np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return 4 * count * threads / _best(lambda: list(pool.map(np.max, parts)))


def product_rate(threads: int, integers: bool, size: int = 1024) -> float:
    """Operations a second of ONNX Runtime's product with a constant square matrix.

    In fp32, or of unsigned with signed 8-bit integers, as its quantised kernels multiply.
    """
    kind, result, op = ("uint8", "int32", "MatMulInteger") if integers else _FLOATS
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> '
        f"product ({kind}[S, K] a) => ({result}[S, N] c) {{ c = {op}(a, b) }}"
    )
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 100, (size, size)) for _ in range(2))
    weight = numpy_helper.from_array(right.astype(np.int8 if integers else np.float32), "b")
    model.graph.initializer.append(weight)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options)
    given = {"a": left.astype(np.uint8 if integers else np.float32)}
    return 2 * size**3 / _best(lambda: session.run(None, given))


def busy_share(seconds: float = 0.5) -> float:
    """The share of all cores that somebody uses while we wait."""
    before = _jiffies()
    time.sleep(seconds)
    busy, total = (after - b for after, b in zip(_jiffies(), before, strict=True))
    return busy / max(total, 1)


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Hardware")):
            return line.split(":", 1)[1].strip()
    return "unknown"


def _jiffies() -> tuple[int, int]:
    """(busy, all) of the cores since boot; proc(5), /proc/stat."""
    user, nice, system, idle, iowait, *others = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    busy = user + nice + system + sum(others)
    return busy, busy + idle + iowait


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
