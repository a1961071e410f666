"""Environments are made once, whole or not at all; pip and venv are played by a script."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.lib import environments
from bench.lib.environments import Environment, environment, installed_bytes
from edge_mm_runtime.errors import UsageError

FAKE = """#!/bin/sh
echo "$* with ${FLAGS:-no flags}" >> "{calls}"
case "$*" in
  "-m venv"*) for last; do :; done; mkdir -p "$last/bin"; printf python > "$last/bin/python" ;;
  *install*absent*) echo "ERROR: No matching distribution found for absent==1" >&2
                    echo "notice: a new pip is out" >&2; exit 1 ;;
esac
"""


class Pip:
    """What stands for our own Python, and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.python, self._calls = folder / "fake-python", folder / "calls.txt"
        self.python.write_text(FAKE.replace("{calls}", str(self._calls)))
        self.python.chmod(0o755)

    def calls(self) -> list[str]:
        """Since the last time."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    fake = Pip(tmp_path)
    monkeypatch.setattr(sys, "executable", str(fake.python))
    return fake


def pin(monkeypatch: pytest.MonkeyPatch, *requirements: str, removed: tuple[str, ...] = ()) -> None:
    """Let there be one environment, `toy`."""
    toy = Environment(requirements, removed, {"FLAGS": "-O3"})
    monkeypatch.setattr(environments, "ENVIRONMENTS", {"toy": toy})


def test_it_is_made_once(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, "one==1", "two==2", removed=("three",))
    home = tmp_path / "environments"
    python = environment("toy", home)
    assert python == home / "toy" / "bin" / "python"
    assert pip.calls() == [
        f"-m venv --without-pip {home}/toy with no flags",
        f"-m pip --python {python} install --quiet one==1 two==2 with -O3",
        f"-m pip --python {python} uninstall --quiet --yes three with no flags",
    ]
    assert environment("toy", home) == python
    assert pip.calls() == []


def test_other_pins_make_it_anew(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, "one==1")
    (environment("toy", tmp_path).parent / "of-one").touch()
    pin(monkeypatch, "one==2")
    python = environment("toy", tmp_path)
    assert not (python.parent / "of-one").exists()
    assert any("one==2" in call for call in pip.calls())


def test_pip_fails(pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, "absent==1")
    for _ in range(2):  # what a failure leaves is not taken for an environment
        with pytest.raises(UsageError, match=r"environment toy: pip .*No matching distribution"):
            environment("toy", tmp_path)
        assert len(pip.calls()) == 2


def test_installed_bytes(tmp_path: Path) -> None:
    (tmp_path / "toy" / "lib").mkdir(parents=True)
    (tmp_path / "toy" / "lib" / "module.py").write_bytes(b"x" * 1000)
    assert installed_bytes("toy", tmp_path) == 1000
    (tmp_path / "toy" / "lib64").symlink_to("lib")
    assert installed_bytes("toy", tmp_path) == 1003  # the link's own bytes


def test_every_torch_is_the_one() -> None:
    pins = [pin for made in environments.ENVIRONMENTS.values() for pin in made.requirements]
    assert {pin for pin in pins if pin.startswith("torch")} == {"torch==2.13.0"}
    assert all("==" in pin for pin in pins)
