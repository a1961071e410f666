"""Throw-away virtual environments, one a peer, so that no engine meets another's packages.

Made on demand under data/bench/environments with `python -m venv` and pip, and kept: a stamp of the
pins lies in each, and an environment whose stamp is missing or of other pins is made again. What an
engine runs in holds no more than it needs; what its model is converted with (torch, mostly) is an
environment of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from edge_mm_runtime.errors import UsageError

FOLDER = Path("data/bench/environments")
STAMP = "pins.json"
TORCH = "torch==2.13.0"
NUMPY = "numpy==2.4.6"


class Environment(NamedTuple):
    """What pip installs, what it uninstalls afterwards, and the variables that it runs with."""

    requirements: tuple[str, ...]
    removed: tuple[str, ...] = ()
    variables: Mapping[str, str] = MappingProxyType({})

    def stamp(self) -> str:
        """All that decides what is installed."""
        parts = (list(self.requirements), list(self.removed), dict(self.variables))
        return json.dumps(parts, indent=1) + "\n"


_FLAGS = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
_WITHOUT_AMX = (
    f"'-DCMAKE_C_FLAGS={_FLAGS}' '-DCMAKE_CXX_FLAGS={_FLAGS}'"
    if platform.machine() in ("x86_64", "AMD64")
    else ""
)

ENVIRONMENTS = {
    "transformers": Environment((TORCH, NUMPY, "transformers==5.23.0")),
    "genai": Environment((NUMPY, "onnxruntime-genai==0.18.0", "onnxruntime==1.31.1")),
    "genai-builder": Environment(
        (
            TORCH,
            NUMPY,
            "onnxruntime-genai==0.18.0",
            "onnxruntime==1.31.1",
            "onnx==1.23.2",
            "onnx-ir==1.1.0",
            "transformers==5.23.0",
        )
    ),
    "openvino": Environment((NUMPY, "openvino==2026.4.1", "openvino-genai==2026.4.1.0")),
    # The torchvision that it pulls was built for another torch, and transformers imports it.
    "openvino-exporter": Environment(
        (TORCH, "optimum-intel==2.2.0", "openvino==2026.4.1", "nncf==3.4.0"),
        removed=("torchvision",),
    ),
    # From source, 10 to 20 minutes of one core: for this very processor, without its vision part,
    # and without AMX, in whose kernels it crashes (0.3.36 on a Xeon in a virtual machine).
    "llama": Environment(
        (NUMPY, "llama-cpp-python==0.3.36"),
        variables=MappingProxyType(
            {
                "CMAKE_ARGS": f"-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF {_WITHOUT_AMX}",
                "CMAKE_BUILD_PARALLEL_LEVEL": "1",
            }
        ),
    ),
}


def environment(name: str, folder: Path = FOLDER) -> Path:
    """The Python of an environment, made where it is missing or of other pins.

    UsageError if venv or pip fails; what they left is made anew by the next call.
    """
    wanted = ENVIRONMENTS[name]
    home = (folder / name).absolute()
    python, stamp = home / "bin" / "python", home / STAMP
    if stamp.is_file() and stamp.read_text() == wanted.stamp():
        return python
    print(f"environment {name}: pip installs {' '.join(wanted.requirements)}", file=sys.stderr)
    if home.exists():
        shutil.rmtree(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    _run(name, ["-m", "venv", "--without-pip", str(home)])
    pip = ["-m", "pip", "--python", str(python)]
    _run(name, [*pip, "install", "--quiet", *wanted.requirements], wanted.variables)
    if wanted.removed:
        _run(name, [*pip, "uninstall", "--quiet", "--yes", *wanted.removed])
    stamp.write_text(wanted.stamp())
    return python


def installed_bytes(name: str, folder: Path = FOLDER) -> int:
    """What an environment takes on disk, links not followed."""
    files = (folder / name).rglob("*")
    return sum(path.lstat().st_size for path in files if path.is_symlink() or path.is_file())


def _run(name: str, arguments: list[str], variables: Mapping[str, str] | None = None) -> None:
    """Our own Python with arguments; UsageError with its last words if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **(variables or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        errors = [line for line in said if line.lower().lstrip().startswith("error")]
        raise UsageError(
            f"environment {name}: {' '.join(arguments[1:3])} failed with {done.returncode}: "
            f"{(errors or said)[-1].strip()}; is the package index reachable?"
        )
