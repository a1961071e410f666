"""`edge-mm doctor`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_mm_runtime.commands import doctor


def test_doctor_lists_what_is_there(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--bundle", str(tiny_bundle)]) == 0
    report = capsys.readouterr().out
    assert "CPUExecutionProvider" in report
    assert "tiny, cpu fp32" in report
    assert report.endswith("ready\n")


def test_doctor_says_what_to_install(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert doctor.main(["--bundle", str(tiny_bundle)]) == 1
    report = capsys.readouterr().out
    assert "cv2           missing: pip install 'edge-mm[cpu]'" in report
    assert report.endswith("not ready: see above\n")


def test_doctor_goes_on_without_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(["--bundle", str(tmp_path)]) == 1
    assert "no bundle at" in capsys.readouterr().out


def test_programs_read_one_object(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--bundle", str(tiny_bundle), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    found = {item["name"]: item["what"] for item in report["findings"]}
    assert report["ready"] and "GStreamer" in found["cv2"]
    assert {"memory", "gpu", "camera", "--device"} <= found.keys()
