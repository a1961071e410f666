"""What the benches make once and keep, and how a worker of another environment is started."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.hashes import files_sha256

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "bench" / "peers"


def on(python: str | Path) -> list[str]:
    """Python of an environment that finds `bench`, and asks no network for models."""
    return ["env", f"PYTHONPATH={ROOT}", "HF_HUB_OFFLINE=1", str(python)]


def command(python: str | Path, script: str, *arguments: object) -> list[str]:
    """A script of bench/peers in some environment."""
    return [*on(python), str(SCRIPTS / script), *map(str, arguments)]


def run(words: list[str]) -> None:
    """A conversion that `on` begins; UsageError with its last words if it fails."""
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        called = " ".join(Path(word).name for word in words[4:7])
        raise UsageError(f"{called} failed with {done.returncode}: {said[-1]}")


def made(out: Path, make: Callable[[Path], None]) -> Path:
    """`out`, a file or a folder: kept if it is there, else made beside it and moved whole."""
    if out.exists():
        return out
    partial = out.with_name(f".partial-{out.name}")
    out.parent.mkdir(parents=True, exist_ok=True)
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.unlink(missing_ok=True)
    print(f"making {out}", file=sys.stderr)
    make(partial)
    partial.rename(out)
    return out


def made_bundle(out: Path, make: Callable[[Path], None], *sources: Path) -> Path:
    """`made` for a bundle: kept for as long as the exporter and its `sources` are the same."""
    found = files_sha256(*sorted((ROOT / "export").rglob("*.py")), *sources)
    kept = out.with_name(f"{out.name}-{found[:12]}")
    for old in out.parent.glob(f"{out.name}-*"):
        if old != kept:
            shutil.rmtree(old)
    return made(kept, make)
