"""A missing package is answered by the name of its extra; the base imports none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_mm_runtime.errors import EdgeMMError, MissingExtraError
from edge_mm_runtime.extras import require

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_without(names: tuple[str, ...], code: str) -> subprocess.CompletedProcess[str]:
    source = BLOCKED.format(names=names) + code
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["onnxruntime", "cv2"])
def test_a_session_without_its_engine_names_the_extra(name: str, tiny_bundle: Path) -> None:
    code = f"from edge_mm_runtime import Session\nSession({str(tiny_bundle)!r})"
    error = run_without((name,), code).stderr.strip().splitlines()[-1]
    assert error.endswith(f"MissingExtraError: {name} is not installed: pip install 'edge-mm[cpu]'")


def test_every_module_imports_without_extras() -> None:
    code = """
import importlib, pkgutil, edge_mm_runtime
for module in pkgutil.walk_packages(edge_mm_runtime.__path__, "edge_mm_runtime."):
    importlib.import_module(module.name)
assert not {"torch", "transformers", "huggingface_hub"} & set(sys.modules)
"""
    heavy = ("onnxruntime", "cv2", "torch", "transformers", "onnx", "edge_mm", "edge_mm_export")
    done = run_without(heavy, code)
    assert done.returncode == 0, done.stderr


def test_the_package_itself_imports_nothing() -> None:
    done = run_without(("numpy", "msgspec", "tokenizers", "llguidance"), "import edge_mm_runtime")
    assert done.returncode == 0, done.stderr


def test_a_package_that_lacks_another_one_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    (tmp_path / "no_library.py").write_text("raise ImportError('libGL.so.1: no such file')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="half_there needs not_there_at_all"):
        require("half_there", "cpu")
    with pytest.raises(EdgeMMError, match=r"no_library cannot be loaded \(libGL.so.1"):
        require("no_library", "cpu")
