"""The preflight: the formula by hand, and what a small board is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from edge_mm_runtime.bundle import Bundle, DecoderGeometry
from edge_mm_runtime.engines.errors import EngineError
from edge_mm_runtime.engines.memory import check_disk, check_memory, estimate, free_memory

GIB = 1 << 30
TWO_B = DecoderGeometry(28, 8, 128, 4096, 151936, 2048)  # a decoder of about 1.7 G weights


def large(make_bundle: Callable[..., Bundle], **fields: Any) -> Bundle:
    """A small bundle that says it is a large one."""
    bundle = make_bundle(**fields)
    return Bundle(bundle.folder, replace(bundle.manifest, decoder=TWO_B))


def test_the_formula(make_bundle: Callable[..., Bundle]) -> None:
    weights = {"vision": 400_000_000, "decoder": 3_400_000_000}
    peak = estimate(large(make_bundle), weights)
    cache = 28 * 4096 * 8 * 128 * 2 * 2  # layers, tokens, heads, head_dim, keys + values, fp16
    activations = 4096 * 32 * 2048 + 4096 * 4096
    assert peak.total == GIB + 4 * 3_400_000_000 + cache + activations + GIB // 4


def test_the_largest_graph_counts(make_bundle: Callable[..., Bundle]) -> None:
    peak = estimate(make_bundle(), {"vision": 10**9, "decoder": 10**6})
    assert peak.total == GIB + 3 * 10**9 + 32 * 32 * 512 + GIB // 4


def test_never_less_than_the_bundle_says(make_bundle: Callable[..., Bundle]) -> None:
    bundle = large(make_bundle, memory_estimate_bytes=50 * GIB)
    assert estimate(bundle, {"vision": 1, "decoder": 1}).total == 50 * GIB


def test_a_board_of_8_gb_is_told_what_fits(make_bundle: Callable[..., Bundle]) -> None:
    bundle = large(make_bundle)
    peak = estimate(bundle, {"vision": 400_000_000, "decoder": 3_400_000_000})
    with pytest.raises(EngineError) as error:
        check_memory(bundle, "tensorrt", peak, 87, int(6.5 * GIB))
    assert "takes about 14.6 GiB at its peak and 6.5 GiB are free" in str(error.value)
    assert "--precision int4 (5.5 GiB); or close other programs" in str(error.value)


def test_a_shorter_context_is_offered(make_bundle: Callable[..., Bundle]) -> None:
    bundle = large(make_bundle, precision="int4")
    peak = estimate(bundle, {"vision": 1, "decoder": 10**8})  # the cache is most of it
    with pytest.raises(EngineError, match=r"a context of 2048 tokens \(2.0 GiB\); or close"):
        check_memory(bundle, "tensorrt", peak, 87, int(2.1 * GIB))


def test_only_what_the_target_comes_in_is_offered(make_bundle: Callable[..., Bundle]) -> None:
    bundle = large(make_bundle, target="tensorrt-10.3")
    peak = estimate(bundle, {"vision": 1, "decoder": 10**9})
    with pytest.raises(
        EngineError, match=r"free: export .* --precision int8 \(3.9 GiB\); or close"
    ):
        check_memory(bundle, "tensorrt-10.3", peak, 87, 4 * GIB)
    with pytest.raises(EngineError, match="no smaller precision"):  # int4 would fit
        check_memory(bundle, "tensorrt-10.3", peak, 87, int(3.2 * GIB))


def test_nothing_smaller_fits(make_bundle: Callable[..., Bundle]) -> None:
    bundle = large(make_bundle)
    peak = estimate(bundle, {"vision": 1, "decoder": 10**11})
    with pytest.raises(EngineError, match="no smaller precision or context fits"):
        check_memory(bundle, "tensorrt", peak, 87, 8 * GIB)


def test_what_is_left_is_workspace(make_bundle: Callable[..., Bundle]) -> None:
    bundle = make_bundle()
    peak = estimate(bundle, {"vision": 10**6, "decoder": 10**6})
    assert check_memory(bundle, "tensorrt", peak, 87, peak.total) == GIB // 4
    assert check_memory(bundle, "tensorrt", peak, 87, peak.total + 100) == GIB // 4 + 100
    assert check_memory(bundle, "tensorrt", peak, 87, 64 * GIB) == 2 * GIB
    assert check_memory(bundle, "tensorrt", peak, 87, None) == GIB // 4


def test_free_memory_is_what_linux_says(tmp_path: Path) -> None:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:  7990000 kB\nMemFree: 100 kB\nMemAvailable:    6000000 kB\n")
    assert free_memory(path) == 6_000_000 * 1024
    assert free_memory(tmp_path / "nothing") is None


def test_a_disk_without_room_is_told(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(EngineError, match=r"GiB on disk and .* free: make room"):
        check_disk(tmp_path, shutil.disk_usage(tmp_path).total + 1)
