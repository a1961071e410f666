"""The code blocks of the README and of docs/runtime.md run as they stand.

Run are python blocks and bash blocks that call `edge-mm`; `<!-- not run: reason -->` on the line
above a block exempts it.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

Shell = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs" / "runtime.md")
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>bash|python)\n(?P<code>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    language: str
    code: str
    why_not: str | None


def blocks(text: str) -> list[Block]:
    found = [
        Block(match["language"], match["code"], match["why"]) for match in BLOCK.finditer(text)
    ]
    return [block for block in found if block.language == "python" or "edge-mm" in block.code]


RUN = {
    page: [block for block in blocks(page.read_text()) if block.why_not is None] for page in PAGES
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_both_kinds_of_block_are_found(page: Path) -> None:
    assert {block.language for block in RUN[page]} == {"bash", "python"}


def test_a_block_can_be_exempted() -> None:
    text = "<!-- not run: needs a camera -->\n```bash\nedge-mm run\n```\n```bash\nls\n```\n"
    assert blocks(text) == [Block("bash", "edge-mm run\n", "needs a camera")]


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page.name}: {block.code.splitlines()[0][:40]}")
        for page, found in RUN.items()
        for block in found
    ],
)
def test_block_runs(block: Block, shell: Shell, shipped_bundle: Path) -> None:
    interpreter = ["bash", "-euo", "pipefail"] if block.language == "bash" else ["python"]
    result = shell(*interpreter, "-c", block.code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_the_tree_exists(repository: Path) -> None:
    """Every folder that the README's tree names is there."""
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README.read_text(), re.S)
    assert tree is not None
    parent = ""
    for line in tree[1].splitlines():
        name = line.split()[0]
        parent, path = (parent, parent + name) if line.startswith(" ") else (name, name)
        assert (repository / path).is_dir(), f"the README names {path}"
