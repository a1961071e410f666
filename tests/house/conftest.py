"""Fixtures of the house: the shipped bundle, a shell as a user has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path, repository: Path) -> Shell:
    """Run a command in an empty folder that sees examples/, recipes/ and models/ and no more."""
    for name in ("examples", "recipes", "models"):
        if (repository / name).is_dir():
            (tmp_path / name).symlink_to(repository / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def shipped_bundle(repository: Path) -> Path:
    """The folder of the bundle inside the package."""
    folder = repository / "runtime" / "edge_mm_runtime" / "bundles" / "nano"
    if not (folder / "bundle.json").is_file():
        pytest.fail("the shipped bundle is missing: export models/nano into it")
    return folder
