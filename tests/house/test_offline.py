"""The runtime opens no connection: `ask` and `run` answer where every socket is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REFUSE = """
import sys
def refuse(event, args):
    if event.startswith("socket."):
        raise PermissionError(f"{event}{args[1:]} while offline")
sys.addaudithook(refuse)
"""
CLIENTS = ("huggingface_hub", "requests", "urllib3", "httpx", "aiohttp", "http.client")


def offline(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", REFUSE + code], capture_output=True, text=True)


def test_the_hook_refuses_a_socket() -> None:
    done = offline("import socket; socket.create_connection(('127.0.0.1', 9))")
    assert "while offline" in done.stderr and done.returncode != 0


@pytest.mark.parametrize(
    "argv",
    [
        ["ask", "PICTURE", "find the red can"],
        ["run", "find the red can", "--source", "PICTURE", "--jsonl", "LOG"],
    ],
)
def test_it_answers_without_a_network(argv: list[str], repository: Path, tmp_path: Path) -> None:
    places = {
        "PICTURE": str(repository / "examples/frames/fridge_03.jpg"),
        "LOG": str(tmp_path / "log.jsonl"),
    }
    command = [places.get(word, word) for word in argv]
    done = offline(
        f"from edge_mm.cli import main\ncode = main({command!r})\n"
        f"print([name for name in {CLIENTS!r} if name in sys.modules])\nsys.exit(code)"
    )
    assert done.returncode == 0, done.stderr
    assert "red can" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
