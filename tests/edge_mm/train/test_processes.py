"""Runs that are killed, and runs of several processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.edge_mm.train.conftest import ALIGN, launch, log_lines, processes_of

STEPS = 24
WHOLE = [
    "stages.0.steps=0", "stages.1.steps=0", f"stages.2.steps={STEPS}", "stages.2.evaluate_every=5",
    "stages.2.decay=12", "train.checkpoint_minutes=0",
]  # fmt: skip
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(recipe_file: Path, out: Path, overrides: list[str]) -> list[str]:
    found = ["-m", "edge_mm.cli", "train", str(recipe_file), "--out", str(out)]
    return found + [part for override in overrides for part in ("--set", override)]


def test_killed_and_resumed_as_if_it_had_not_stopped(tmp_path: Path, recipe_file: Path) -> None:
    folder = f"data.val=[{recipe_file.read_text().split('train: [')[1].split(']')[0]}]"
    overrides = [*WHOLE, folder]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run = subprocess.Popen(
        [sys.executable, *command(recipe_file, killed, overrides)],
        env=ALONE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    stop_at = random.randrange(3, STEPS - 8)
    while not (killed / "log.jsonl").is_file() or len(log_lines_so_far(killed)) < stop_at:
        assert run.poll() is None, run.stdout.read() if run.stdout else ""
        time.sleep(0.01)
    time.sleep(random.random() / 20)  # anywhere in a step, also while it saves
    run.send_signal(signal.SIGKILL)
    run.wait()
    for out, more in ((killed, ["--resume"]), (whole, [])):
        subprocess.run(
            [sys.executable, *command(recipe_file, out, overrides), *more],
            env=ALONE, check=True, capture_output=True,
        )  # fmt: skip
    one, two = (load_file(str(out / "state" / "weights.safetensors")) for out in (whole, killed))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=0, rtol=0, msg=f"{name}, {stop_at}")


def log_lines_so_far(out: Path) -> list[str]:
    return (out / "log.jsonl").read_text().splitlines()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_have_the_curve_of_one(
    tmp_path: Path, recipe_file: Path, accumulate: int
) -> None:
    """Through `accelerate launch` with gloo; the stage has the contrastive loss in it too, which
    compares every picture with the captions of the other process."""
    overrides = [
        *ALIGN,
        f"stages.0.accumulate={accumulate}",
        f"stages.0.losses={{sea: 1, language: 1, mentions: 1, {extra(accumulate)}}}",
    ]
    subprocess.run(
        [sys.executable, *command(recipe_file, tmp_path / "1", overrides)],
        env=ALONE, check=True, capture_output=True,
    )  # fmt: skip
    launch("ddp.yaml", 2, *command(recipe_file, tmp_path / "2", overrides))
    assert processes_of(tmp_path / "2") == 2
    one, two = (log_lines(tmp_path / str(processes)) for processes in (1, 2))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for name in set(a) - {"stage", "samples_per_s"}:
            assert b[name] == pytest.approx(a[name], abs=1e-3), (a["step"], name)


def extra(accumulate: int) -> str:
    # in micro-batches a picture is compared with fewer captions: another loss, by its nature
    return "contrastive: 0.5" if accumulate == 1 else "pointing: 0.5"
