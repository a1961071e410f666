"""What the benches make once: whole or not at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.lib.making import made, made_bundle, run
from edge_mm_runtime.errors import UsageError


def test_a_conversion_is_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "made" / "model"

    def stop_halfway(partial: Path) -> None:
        partial.mkdir()
        (partial / "half").touch()
        raise UsageError("no network")

    def finish(partial: Path) -> None:
        assert not partial.exists()  # what the first try left is gone
        partial.mkdir()
        (partial / "whole").touch()

    with pytest.raises(UsageError):
        made(out, stop_halfway)
    assert not out.exists()
    made(out, finish)
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert [path.name for path in out.iterdir()] == ["whole"]


def test_a_conversion_that_fails() -> None:
    code = "import sys; print('a line'); sys.exit('RuntimeError: no such operator')"
    with pytest.raises(UsageError, match="failed with 1: RuntimeError: no such operator"):
        run(["env", "A=1", sys.executable, "-c", code])


def test_a_bundle_is_made_anew_when_what_it_comes_of_is_another(tmp_path: Path) -> None:
    weights, runs = tmp_path / "weights", []

    def make(partial: Path) -> None:
        runs.append(partial)
        partial.mkdir()

    found = []
    for content in (b"one", b"one", b"two"):
        weights.write_bytes(content)
        found.append(made_bundle(tmp_path / "bundle", make, weights))
    assert found[0] == found[1] != found[2]
    assert len(runs) == 2 and list(tmp_path.glob("bundle-*")) == [found[2]]
