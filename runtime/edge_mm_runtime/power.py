"""Energy of a Jetson while something runs, from `tegrastats`, which every JetPack has.

Each line of it names the board's rails with their power now and on average, in milliwatts:

    ... VDD_IN 5134mW/5020mW VDD_CPU_GPU_CV 1234mW/1200mW VDD_SOC 1470mW/1465mW

VDD_IN is the whole module; an AGX board shows parts only, whose sum is taken.
NVIDIA Jetson Linux Developer Guide, "tegrastats Utility".
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from typing import Any

PROGRAM = "tegrastats"
INTERVAL_MS = 100
_WHOLE = "VDD_IN"
_RAIL = re.compile(r"\b((?:VDD|VIN|POM)\w*) (\d+)(?:mW)?/\d+")


class EnergyMeter:
    """Joules between enter and exit; `joules` stays None where there is no tegrastats."""

    def __init__(self) -> None:
        self.joules: float | None = None
        self._watts: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._started = 0.0

    def __enter__(self) -> EnergyMeter:
        program = shutil.which(PROGRAM)
        if program is not None:
            command = [program, "--interval", str(INTERVAL_MS)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            self._thread = threading.Thread(target=self._read, daemon=True)
            self._thread.start()
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: Any) -> None:
        seconds = time.monotonic() - self._started
        if self._process is None or self._thread is None:
            return
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._watts:
            self.joules = seconds * sum(self._watts) / len(self._watts)

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            watts = board_watts(line)
            if watts is not None:
                self._watts.append(watts)


def board_watts(line: str) -> float | None:
    """Power of the board by one line of tegrastats; None where it names no rail."""
    rails = {name: int(milliwatts) / 1000 for name, milliwatts in _RAIL.findall(line)}
    if not rails:
        return None
    return rails.get(_WHOLE, sum(rails.values()))
