"""The table of peers; nothing is installed, downloaded or converted here."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from bench.lib import peers
from bench.lib.environments import ENVIRONMENTS
from bench.lib.making import SCRIPTS
from bench.lib.peers import PEERS, Peer

OF_AN_ENVIRONMENT = {
    "transformers": {"torch", "transformers"},
    "genai": {"onnxruntime_genai"},
    "openvino": {"openvino", "openvino_genai"},
    "llama": {"llama_cpp"},
}


def test_names_are_told_apart() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    assert all(peer.environment in ENVIRONMENTS for peer in PEERS)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_worker_imports_what_its_environment_has(peer: Peer) -> None:
    tree = ast.parse((SCRIPTS / peer.script).read_text())
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = names - set(sys.stdlib_module_names) - {"numpy", "bench.lib.workers"}
    assert own == OF_AN_ENVIRONMENT[peer.environment]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    asked = list[str]()

    def environment(name: str) -> Path:
        asked.append(name)
        return tmp_path / "bin" / "python"

    monkeypatch.setattr(peers, "environment", environment)
    peer = Peer("toy fp32", "toy", "fp32", "genai", "genai_text.py", lambda: tmp_path, "1024")
    program, *variables, python, script, model, argument, threads = peer.prepare()
    assert (program, python, asked) == ("env", str(tmp_path / "bin" / "python"), ["genai"])
    assert f"PYTHONPATH={repository}" in variables
    assert Path(script).is_file()
    assert (model, argument, threads) == (str(tmp_path), "1024", "2")
