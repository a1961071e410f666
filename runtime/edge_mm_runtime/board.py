"""What Linux says about the board: its name, its memory, its Jetson Linux, its cameras.

Read from /proc, /sys and /etc; `root` is where those lie. What is not there is None or empty.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
JETPACKS = {35: "JetPack 5", 36: "JetPack 6", 38: "JetPack 7", 39: "JetPack 7"}
"""By the major version of Jetson Linux (NVIDIA's JetPack archive)."""

_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: ([\d.]+)")


class Memory(NamedTuple):
    """Bytes; a Jetson's GPU takes its memory from the same pool."""

    total: int
    available: int


def model(root: Path = ROOT) -> str | None:
    """The board by its device tree, e.g. "NVIDIA Jetson Orin Nano Developer Kit"."""
    text = _read(root / "proc/device-tree/model")
    return text and text.strip("\0\n ")


def memory(root: Path = ROOT) -> Memory | None:
    """What the kernel has, and what it would give to a new program."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _read(root / "proc/meminfo") or "", re.M))
    if "MemTotal" not in found or "MemAvailable" not in found:
        return None
    return Memory(int(found["MemTotal"]) * 1024, int(found["MemAvailable"]) * 1024)


def jetson_linux(root: Path = ROOT) -> str | None:
    """For example "JetPack 6 (Jetson Linux 36.4.3)"; None on other machines."""
    match = _RELEASE.search(_read(root / "etc/nv_tegra_release") or "")
    if match is None:
        return None
    jetpack = JETPACKS.get(int(match[1]), "JetPack")
    return f"{jetpack} (Jetson Linux {match[1]}.{match[2]})"


def cameras(root: Path = ROOT) -> list[tuple[str, str]]:
    """(device, name) of each V4L2 device, e.g. ("/dev/video0", "UVC Camera")."""
    folder = root / "sys/class/video4linux"
    found = sorted(folder.glob("video*"), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
    return [(f"/dev/{path.name}", (_read(path / "name") or "unnamed").strip()) for path in found]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None
