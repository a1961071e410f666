"""The examples are short, and they run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[..., subprocess.CompletedProcess[str]]
EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))
# What each is started with, so that it ends by itself; an example that is not here has no test.
ARGUMENTS = {
    "ask_picture.py": ["examples/frames/bottles_cups_02.jpg", "find the green bottle"],
    "watch_camera.py": ["examples/frames/bottle-detection.mp4", "find the blue bottle", "3"],
}


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES} == set(ARGUMENTS)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.parametrize("name", ARGUMENTS)
def test_example_runs(name: str, shell: Shell, shipped_bundle: Path) -> None:
    result = shell("python", f"examples/{name}", *ARGUMENTS[name])
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
