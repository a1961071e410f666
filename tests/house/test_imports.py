"""Imports go one way, runtime <- edge_mm <- export, and nothing heavy comes before its use."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mm.cli import COMMANDS

PACKAGES = {
    "edge_mm_runtime": Path("runtime/edge_mm_runtime"),
    "edge_mm": Path("edge_mm"),
    "edge_mm_export": Path("export/edge_mm_export"),
}
FORBIDDEN = {
    "edge_mm_runtime": {"edge_mm", "edge_mm_export", "torch", "transformers", "onnx", "onnxscript"},
    "edge_mm": {"edge_mm_export"},
    "edge_mm_export": set(),
}
HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "cv2",
    "tensorrt",
    "tensorrt_rtx",
    "mujoco",
)

BLOCK = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


def imported(source: str) -> Iterator[tuple[str, bool]]:
    """Top-level names that the source imports, and whether only when a function runs."""
    tree = ast.parse(source)
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            yield name.partition(".")[0], id(node) in lazy


def violations(source: str, forbidden: set[str], lazy_allowed: bool) -> list[str]:
    return [
        name for name, lazy in imported(source) if name in forbidden and not (lazy and lazy_allowed)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str, repository: Path) -> None:
    files = sorted((repository / PACKAGES[package]).rglob("*.py"))
    assert files, f"{package} has no source"
    # The demo trains, exports and asks, so it alone may call the exporter, inside a function.
    found = {
        str(file.relative_to(repository)): bad
        for file in files
        if (bad := violations(file.read_text(), FORBIDDEN[package], "demo" in file.parts))
    }
    assert not found


def test_the_rule_sees_what_it_forbids() -> None:
    lazy = "def f():\n    from edge_mm_export.export import export_checkpoint\n"
    assert violations("import torch.nn as nn", {"torch"}, True) == ["torch"]
    assert violations("from edge_mm.cli import main", {"edge_mm"}, False) == ["edge_mm"]
    assert violations(lazy, {"edge_mm_export"}, False) == ["edge_mm_export"]
    assert violations(lazy, {"edge_mm_export"}, True) == []
    assert violations("from edge_mm_runtime import Session", {"edge_mm"}, False) == []


def test_no_package_hides_in_a_source_folder(repository: Path) -> None:
    assert not (repository / "runtime" / "__init__.py").exists()
    assert not (repository / "export" / "__init__.py").exists()


def run_blocked(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("package", ["edge_mm", "edge_mm_runtime", "edge_mm.cli"])
def test_import_needs_nothing_heavy(package: str) -> None:
    result = run_blocked(f"import {package}")
    assert result.returncode == 0, result.stderr


def test_the_block_blocks() -> None:
    assert "torch is blocked" in run_blocked("import torch").stderr


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_nothing_heavy(command: str) -> None:
    argv = [*command.split(), "--help"]
    result = run_blocked(f"from edge_mm.cli import main; sys.exit(main({argv!r}))")
    assert result.returncode == 0, result.stderr
    assert f"edge-mm {command}".strip() in result.stdout


def test_a_missing_package_is_answered_by_its_extra() -> None:
    code = """
import edge_mm.cli as cli, types
command = types.ModuleType("command")
def main(argv): import torch
command.main = main
sys.modules["command"] = command
cli.COMMANDS["train"] = ("command:main", "")
sys.exit(cli.main(["train"]))
"""
    result = run_blocked(code)
    assert result.returncode == 2
    assert result.stderr == "error: edge-mm train needs torch: pip install 'edge-mm[train]'\n"
