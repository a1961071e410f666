"""`edge-mm doctor` and `edge-mm check`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from edge_mm_runtime import session
from edge_mm_runtime.commands import check, doctor
from edge_mm_runtime.errors import BundleError


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
    assert "cv2          missing: pip install 'edge-mm[cpu]'" in report
    assert report.endswith("not ready: see above\n")


def test_doctor_goes_on_without_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(["--bundle", str(tmp_path)]) == 1
    assert "no bundle at" in capsys.readouterr().out


def test_check_asks_in_every_mode(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([str(tiny_bundle)]) == 0
    report = capsys.readouterr().out
    assert "3 files" in report
    assert report.count(" ok: ") == 6


def test_check_fails_where_an_answer_fails(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("confidence of 'cup' is nan")

    monkeypatch.setattr(session, "_answer", fail)
    assert check.main([str(tiny_bundle)]) == 1
    assert capsys.readouterr().out.count("FAILED: confidence of 'cup' is nan") == 6


def test_check_names_a_damaged_file(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))
    path = folder / "vision.cpu.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BundleError, match=r"vision.cpu.onnx has a wrong hash"):
        check.main([str(folder)])
