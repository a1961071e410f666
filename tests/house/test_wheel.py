"""What a user installs: three packages under their own names, the shipped model, nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest


@pytest.fixture(scope="module")
def wheel_names(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)],
        cwd=repository,
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("edge_mm-*.whl")
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_three_packages_and_nothing_else(wheel_names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "edge_mm",
        "edge_mm_runtime",
        "edge_mm_export",
    }


def test_every_source_file_is_inside(wheel_names: set[str], repository: Path) -> None:
    for folder in (".", "runtime", "export"):
        for package in (repository / folder).glob("edge_mm*"):
            for file in package.rglob("*.py"):
                assert str(file.relative_to(repository / folder)) in wheel_names


def test_no_caches(wheel_names: set[str]) -> None:
    assert not [name for name in wheel_names if "__pycache__" in name or name.endswith(".pyc")]


def test_package_data_is_inside(wheel_names: set[str]) -> None:
    assert "edge_mm/demo/page.html" in wheel_names


def test_the_shipped_model_is_inside(
    wheel_names: set[str], shipped_bundle: Path, repository: Path
) -> None:
    files = [file for file in shipped_bundle.rglob("*") if file.is_file()]
    for file in files:
        assert str(file.relative_to(repository / "runtime")) in wheel_names
    assert sum(file.stat().st_size for file in files) <= 32 * 1024 * 1024
