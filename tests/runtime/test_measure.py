"""Latencies and what a process holds, against the standard library's own counts."""

from __future__ import annotations

import gc
import statistics
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime import power
from edge_mm_runtime.measure import held, latency, peak_memory_bytes


def test_percentiles() -> None:
    values = np.random.default_rng(0).gamma(2.0, 10.0, 201).tolist()
    found = latency(values)
    assert found is not None and found.n == 201
    assert found.p50 == pytest.approx(statistics.median(values))
    assert found.p95 == pytest.approx(statistics.quantiles(values, n=20, method="inclusive")[-1])
    assert latency([]) is None


def test_what_is_held_grows_with_what_is_opened(tmp_path: Path) -> None:
    gc.collect()  # what others left must not be given back in between
    before = held()
    stop = threading.Event()
    waiting = threading.Thread(target=stop.wait)
    waiting.start()
    kept = np.ones(200_000_000, np.uint8)
    with (tmp_path / "file").open("w"):
        after = held()
    stop.set()
    waiting.join()
    assert before.files is not None and after.files == before.files + 1
    assert before.threads is not None and after.threads == before.threads + 1
    assert before.memory_bytes is not None and after.memory_bytes is not None
    assert after.memory_bytes - before.memory_bytes > 0.8 * kept.nbytes
    assert peak_memory_bytes() > 0.9 * after.memory_bytes  # the kernel counts it lazily


@pytest.mark.parametrize(
    ("line", "watts"),
    [
        (  # Orin Nano, JetPack 6
            "RAM 2461/7620MB (lfb 2x4MB) CPU [0%@729] GR3D_FREQ 0% cpu@48.9C "
            "VDD_IN 4971mW/4951mW VDD_CPU_GPU_CV 497mW/497mW VDD_SOC 1393mW/1393mW",
            4.971,
        ),
        (  # AGX Orin: no VDD_IN
            "EMC_FREQ 0% VDD_GPU_SOC 3205mW/3205mW VDD_CPU 801mW/801mW VIN_SYS_5V0 3538mW/3538mW",
            7.544,
        ),
        ("RAM 2461/7620MB GR3D_FREQ 0%", None),
    ],
)
def test_power_is_read_from_tegrastats(line: str, watts: float | None) -> None:
    assert power.board_watts(line) == (None if watts is None else pytest.approx(watts))


def test_energy_is_power_times_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "tegrastats"
    script.write_text("#!/bin/sh\nwhile echo 'VDD_IN 8000mW/8000mW'; do sleep 0.02; done\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with power.EnergyMeter() as meter:
        threading.Event().wait(0.2)
    assert meter.joules is not None and 0.2 * 8 <= meter.joules < 0.2 * 8 * 20
    monkeypatch.setattr(power, "PROGRAM", "no-such-program")
    with power.EnergyMeter() as none:
        pass
    assert none.joules is None
