"""A precision that the GPU lacks is refused, with one that it has."""

from __future__ import annotations

import pytest

from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.precision import check_precision, precisions_of


@pytest.mark.parametrize(
    ("precision", "capability", "instead"),
    [
        ("fp8", 87, "int8 or int4 or fp16"),
        ("fp4", 87, "int4 or int8 or fp16"),
        ("fp4", 89, "int4 or int8 or fp16"),
        ("int4", 75, "int8 or fp16"),
        ("bf16", 75, "fp16 or int8"),
    ],
)
def test_what_a_gpu_lacks(precision: str, capability: int, instead: str) -> None:
    with pytest.raises(EngineError) as error:
        check_precision([precision], capability, "tensorrt", "nano")
    assert f"nano computes in {precision}" in str(error.value)
    assert f"for SM{capability}: " in str(error.value)
    assert str(error.value).endswith(f"--precision {instead}")


@pytest.mark.parametrize(
    ("precision", "capability"),
    [("int4", 87), ("int8", 75), ("bf16", 80), ("fp8", 89), ("fp8", 110), ("fp4", 110)],
)
def test_what_a_gpu_has(precision: str, capability: int) -> None:
    check_precision([precision], capability, "tensorrt", "nano")


def test_only_what_the_target_comes_in_is_offered() -> None:
    with pytest.raises(EngineError, match=r"--precision int8 or fp16$"):
        check_precision(["fp8"], 87, "tensorrt-10.3", "nano")


def test_types_of_a_network() -> None:
    assert precisions_of({"HALF", "INT64", "FP8", "BF16"}) == ["bf16", "fp8"]
