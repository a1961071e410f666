"""The front door: the table, and one line for each mistake."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path

import pytest

from edge_mm import cli
from edge_mm_runtime.errors import UsageError


def install(monkeypatch: pytest.MonkeyPatch, main: Callable[[list[str]], int]) -> None:
    """Put `main` behind the name `ask`."""
    module = types.ModuleType("some_command")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_command", module)
    monkeypatch.setitem(cli.COMMANDS, "ask", ("some_command:main", "ask"))


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == list(cli.COMMANDS)


def test_version_is_the_one_of_pyproject(
    capsys: pytest.CaptureFixture[str], repository: Path
) -> None:
    version = re.search(r'^version = "(.+)"$', (repository / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"edge-mm {version[1]}\n"


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["exprot"]) == 2
    assert capsys.readouterr().err == "error: unknown command 'exprot'; did you mean 'export'?\n"


def test_arguments_and_exit_code_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, lambda argv: len(argv))
    assert cli.main(["ask", "a.jpg"]) == 1


def raising(error: Exception) -> Callable[[list[str]], int]:
    def main(argv: list[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UsageError("empty text:\nsay what to find"), "empty text: say what to find"),
        (OSError(30, "Read-only file system", "/out/a.png"), "Read-only file system: /out/a.png"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_mistake_is_one_line(
    error: Exception,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch, raising(error))
    assert cli.main(["ask"]) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, raising(ModuleNotFoundError("no", name="edge_mm.typo")))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["ask"])


def test_every_extra_that_is_named_exists() -> None:
    assert set(cli.EXTRAS.values()) <= set(metadata("edge-mm").get_all("Provides-Extra") or [])


def test_a_closed_pipe_is_quiet(shell: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    code = (
        "import sys, types, edge_mm.cli as cli; m = types.ModuleType('m'); sys.modules['m'] = m; "
        "m.main = lambda argv: [print('x' * 80) for _ in range(9999)] and 0; "
        "cli.COMMANDS['ask'] = ('m:main', ''); sys.exit(cli.main(['ask']))"
    )
    result = shell("bash", "-c", f'python -c "{code}" | head -n 1')
    assert (result.stdout, result.stderr) == ("x" * 80 + "\n", "")
