"""SHA-256 of files, and the line in which `sha256sum` prints one."""

from __future__ import annotations

import hashlib
from pathlib import Path


def files_sha256(*paths: Path) -> str:
    """Of the bytes of all files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def hash_line(data: bytes, name: str) -> bytes:
    """What `sha256sum NAME` prints of a file with this content."""
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()
