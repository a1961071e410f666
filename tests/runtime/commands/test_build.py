"""`edge-mm build`: its options, its exit codes and what it prints.

The building itself is tested in tests/runtime/engines; here a stand-in takes its place.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_mm import cli
from edge_mm_runtime.commands import build
from edge_mm_runtime.engines import build as engines
from edge_mm_runtime.engines.manifest import EngineManifest, Machine, Plan
from edge_mm_runtime.engines.profiles import Profile, Range

PROFILE = Profile("prefill", {"input_ids": Range((1, 1), (1, 132), (1, 512))})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What build_engines was asked for; it answers with two engines."""
    asked: list[dict[str, Any]] = []

    def stand_in(bundle: Any, **options: Any) -> engines.Built:
        asked.append(options)
        plans = {
            "vision": Plan("vision.engine", 6_600_000, "a", "v.onnx", "b", (), 3.21),
            "decoder": Plan("decoder.engine", 16_000_000, "c", "d.onnx", "d", (PROFILE,), 60),
        }
        manifest = EngineManifest(
            edge_mm="0.1.0",
            machine=Machine("Orin", 87, "tensorrt", "10.3.0", "12.6"),
            target="tensorrt-10.3",
            precision="int8",
            plans=plans,
        )
        return engines.Built(Path("nano/engines/orin"), manifest, True)

    monkeypatch.setattr(engines, "build_engines", stand_in)
    return asked


def test_people_read_what_was_built(
    calls: list[dict[str, Any]], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build.main([str(tiny_bundle)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nano/engines/orin: built",
        "Orin (SM87), TensorRT 10.3.0, int8",
        "vision   6.6 MB in 3.2 s, fixed shapes",
        "decoder  16.0 MB in 60.0 s, prefill",
    ]
    assert (calls[0]["compute_capability"], calls[0]["memory_limit_bytes"]) == (None, None)


def test_programs_read_one_object(
    calls: list[dict[str, Any]], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.main([str(tiny_bundle), "--json", "--compute-capability", "8.7", "--memory-limit", "1.5"])
    record = json.loads(capsys.readouterr().out)
    assert (record["folder"], record["built"]) == ("nano/engines/orin", True)
    assert record["machine"]["compute_capability"] == 87
    shapes = record["plans"]["decoder"]["profiles"][0]["shapes"]
    assert shapes["input_ids"]["greatest"] == [1, 512]
    assert calls[0]["compute_capability"] == 87
    assert calls[0]["memory_limit_bytes"] == 3 << 29


@pytest.mark.parametrize(
    ("text", "capability"),
    [("89", 89), ("8.9", 89), ("sm_120", 120), ("SM89", 89), ("12.0", 120), ("110", 110)],
)
def test_a_capability_is_read_as_people_write_it(text: str, capability: int) -> None:
    assert build._parse(["b", "--compute-capability", text]).compute_capability == capability


@pytest.mark.parametrize(
    ("option", "text", "line"),
    [
        ("--compute-capability", "ada", "'ada' is no compute capability: give e.g. 89"),
        ("--compute-capability", "9", "'9' is no compute capability"),
        ("--memory-limit", "-1", "'-1' is no size in GiB: give e.g. 6"),
        ("--memory-limit", "nan", "'nan' is no size"),
    ],
)
def test_a_wrong_option_is_named(
    option: str, text: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        build.main(["bundle", f"{option}={text}"])
    assert error.value.code == 2
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("capability", ["87", "110"])
def test_a_jetson_is_refused_in_one_line(
    capability: str,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "find_gpu", lambda: None)
    assert cli.main(["build", str(tiny_bundle), "--compute-capability", capability]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: SM{capability} is a Jetson")
    assert "run `edge-mm build` there, with JetPack's TensorRT" in line
    assert line.count("\n") == 1
