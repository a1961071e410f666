"""A machine and rows that the tests of bench/speed.py show."""

from __future__ import annotations

from typing import Any

from bench.lib.results import Machine, Row
from bench.lib.run import OURS

MACHINE = Machine(
    processor="a processor",
    threads=2,
    read_bytes_s=10e9,
    fp32_operations_s=100e9,
    int8_operations_s=400e9,
)
SVG = "{http://www.w3.org/2000/svg}"


def row(
    engine: str, precision: str = "int8", agreement: float | None = None, **figures: Any
) -> Row:
    return Row(
        engine=engine,
        precision=precision,
        ours=engine.startswith(OURS),
        figures={name.replace("_", " "): values for name, values in figures.items()},
        agreement=agreement,
    )


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
