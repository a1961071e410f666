"""The board, from files as an Orin Nano has them."""

from __future__ import annotations

from pathlib import Path

from edge_mm_runtime import board


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_jetson(tmp_path: Path) -> None:
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    write(tmp_path / "proc/meminfo", "MemTotal:  7802368 kB\nMemAvailable:    5242880 kB\n")
    write(
        tmp_path / "etc/nv_tegra_release",
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    )
    for number, name in ((10, "Arducam"), (2, "UVC Camera\n")):
        write(tmp_path / f"sys/class/video4linux/video{number}/name", name)
    assert board.model(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit"
    assert board.memory(tmp_path) == (7802368 * 1024, 5 << 30)
    assert board.jetson_linux(tmp_path) == "JetPack 6 (Jetson Linux 36.4.3)"
    assert board.cameras(tmp_path) == [("/dev/video2", "UVC Camera"), ("/dev/video10", "Arducam")]


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    assert board.model(tmp_path) is None
    assert board.memory(tmp_path) is None
    assert board.jetson_linux(tmp_path) is None
    assert board.cameras(tmp_path) == []
