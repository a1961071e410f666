"""Part `size`: what an installation takes on disk, the bare environment with pip included."""

from __future__ import annotations

import subprocess
import tempfile
import venv
from pathlib import Path

from bench.lib.bars import INSTALLED, WITH_OPENCV, WITHOUT_OPENCV
from bench.lib.results import PartResult, Row, Work
from bench.lib.run import OURS, TROUBLE, Say

ROOT = Path(__file__).parents[3]
WORK = Work(INSTALLED, {}, unit="MB")
ENGINE_ALONE = "onnxruntime alone"
INSTALLED_AS = {
    f"{OURS}[cpu], model included": ([f"{ROOT}[cpu]"], WITH_OPENCV),
    f"{OURS}, model included, beside the robot's OpenCV": (
        [str(ROOT), "onnxruntime"],
        WITHOUT_OPENCV,
    ),
    ENGINE_ALONE: (["onnxruntime"], ""),
}
"""JetPack and ROS bring an OpenCV, which pip's would hide: `edge-mm` alone asks for none."""


def measure(say: Say) -> PartResult:
    """Install both into throw-away environments; and the peers' that are there."""
    from bench.lib.environments import ENVIRONMENTS, FOLDER, STAMP, installed_bytes

    rows = []
    for name, (requirements, kind) in INSTALLED_AS.items():
        say(f"size: installing {' and '.join(requirements)}")
        row = Row(engine=name, precision=kind, ours=name.startswith(OURS))
        try:
            row.figures = {INSTALLED: [installed_mb(requirements)]}
        except TROUBLE as error:
            row.failure = str(error)
        rows.append(row)
    rows += [
        Row(
            engine=f"environment {name}",
            precision="",
            ours=False,
            figures={INSTALLED: [installed_bytes(name) / 1e6]},
        )
        for name in ENVIRONMENTS
        if (FOLDER / name / STAMP).is_file()
    ]
    notes = ["The peers' environments are without pip and without a model."]
    return PartResult(part="size", rows=rows, notes=notes)


def installed_mb(requirements: list[str]) -> float:
    """Of a new environment with pip in it; CalledProcessError where pip fails."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        command = [Path(folder, "bin", "python"), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(command, check=True, capture_output=True, text=True)
        files = (path for path in Path(folder).rglob("*") if not path.is_symlink())
        return sum(path.stat().st_size for path in files if path.is_file()) / 1e6
