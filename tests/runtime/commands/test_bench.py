"""`edge-mm bench`: every part is measured, and the parts make the whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_mm_runtime.commands import bench
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import write_image

Spoken = Callable[..., Path]
PARTS = ("image", "vision", "prefill", "decode", "new frame to answer", "second question")


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "table.png"
    write_image(path, np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    return str(path)


def test_the_parts_make_the_whole(
    spoken_bundle: Spoken, picture: str, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(spoken_bundle("<ref>red cup</ref><box>"))
    rounds = ["--rounds", "5", "--bundle", bundle, "--picture", picture]
    assert bench.main([*rounds, "--json", "--source", str(video), "--seconds", "0.3"]) == 0
    found = json.loads(capsys.readouterr().out)
    latency = found["latency_ms"]
    assert all(latency[part]["n"] == 5 for part in PARTS)
    whole = latency["new frame to answer"]["p50"]
    assert 0 < sum(latency[part]["p50"] for part in PARTS[:4]) < 2 * whole
    assert latency["vision"]["p50"] > 0  # each frame was really new
    assert latency["camera to answer"]["n"] > 1
    assert found["peak_memory_bytes"] > 1e7
    assert bench.main(rounds) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["ms", "p50", "p95", "p99"]
    assert shown[-1].startswith("peak memory")


@pytest.mark.parametrize("option", [("--rounds", "0"), ("--seconds", "-1"), ("--seconds", "nan")])
def test_what_measures_nothing_is_refused(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(list(option))


def test_a_bundle_without_pictures_asks_for_one(spoken_bundle: Spoken) -> None:
    with pytest.raises(UsageError, match=r"holds no picture: give one with --picture"):
        bench.main(["--bundle", str(spoken_bundle("yes"))])
