"""Every fault has an outcome that docs/runtime.md tells and a test that holds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a robot will meet sooner or later, in the words of the table.
EXPECTED = (
    "unplugged: the handle closed under the reader",
    "stall",
    "resolution change",
    "corrupt JPEG of a camera",
    "corrupt JPEG in a folder",
    "black frames",
    "wrong dtype",
    "1x1 image",
    "8K image",
    "empty text",
    "100k-character text",
    "unknown tokens",
    "two threads",
    "cancel at every step",
    "deadline 0",
)


class Fault(NamedTuple):
    name: str
    outcome: str
    tests: list[str]  # file::test, in tests/


def faults(text: str) -> list[Fault]:
    """The rows of the last table of the page."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (`.+`) \|$", text, re.M)
    return [Fault(name, outcome, re.findall(r"`([^`]+)`", tests)) for name, outcome, tests in rows]


FAULTS = faults((ROOT / "docs" / "runtime.md").read_text().partition("## Faults")[2])


@pytest.mark.parametrize("name", EXPECTED)
def test_the_fault_is_in_the_table(name: str) -> None:
    assert any(name in fault.name for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_its_tests_exist(fault: Fault) -> None:
    assert fault.tests
    for test in fault.tests:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text())
        names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert function.startswith("test_")
        assert function in names, test
