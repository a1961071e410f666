"""The tables of bench/speed.py, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from bench.lib.ratios import paired_ratio, spread
from bench.lib.results import COLD_START, PEAK, Machine, PartResult, Row, Work, best_peer

_NONE = ""


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table; a bar within a cell is written so that it does not end it."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows
    )


def part_tables(result: PartResult, works: Sequence[Work], machine: Machine) -> str:
    """A table for each work, one for start and memory where measured, failures and notes."""
    blocks = [f"## {result.part}"]
    for work in works:
        if any(work.name in row.figures for row in result.rows):
            blocks.append(f"### {work.name}\n\n{work_table(result.rows, work, machine)}")
    if any(COLD_START in row.figures for row in result.rows):
        blocks.append(f"### start and memory\n\n{_start_table(result.rows)}")
    failures = [f"- {row.engine}: {row.failure}" for row in result.rows if row.failure]
    if failures:
        blocks.append("Not measured:\n\n" + "\n".join(failures))
    blocks += result.notes
    return "\n\n".join(blocks)


def work_table(rows: Sequence[Row], work: Work, machine: Machine) -> str:
    """Fastest first: time, rate, ratio to the best peer, share of the limit, accuracy."""
    shown = sorted(
        (row for row in rows if work.name in row.figures), key=lambda row: row.median(work.name)
    )
    limited = any(row.load(work) for row in shown)
    header = ["engine", work.unit]
    header += ["tok/s"] if work.tokens else []
    header += ["of the best peer's (95 %)"]
    header += ["GOP/s", "share of limit"] if limited else []
    header += ["accuracy"]
    lines = []
    for row in shown:
        middle = row.median(work.name)
        cells = [_name(row), str(spread(row.figures[work.name]))]
        if work.tokens:
            cells.append(f"{work.tokens / middle * 1e3:.0f}")
        cells.append(_to_best_peer(row, rows, work.name))
        if limited:
            cells += _limit_cells(row, work, machine)
        lines.append([*cells, row.accuracy])
    return markdown(header, lines)


def _limit_cells(row: Row, work: Work, machine: Machine) -> list[str]:
    load = row.load(work)
    if load is None:
        return [_NONE, _NONE]
    took_s = row.median(work.name) / 1e3
    reads = load.bytes / machine.read_bytes_s >= load.operations / machine.int8_operations_s
    share = 100 * machine.least_s(load) / took_s
    rate = load.operations / took_s / 1e9
    return [f"{rate:.0f}", f"{share:.0f} % of {'reading' if reads else '8-bit products'}"]


def _start_table(rows: Sequence[Row]) -> str:
    header = ["engine", COLD_START, "of the best peer's", PEAK, "of the best peer's"]
    lines = []
    for row in rows:
        if COLD_START in row.figures:
            cells = [_name(row)]
            for measure in (COLD_START, PEAK):
                known = row.figures.get(measure)
                cells.append(str(spread(known)) if known else _NONE)
                cells.append(_to_best_peer(row, rows, measure) if known else _NONE)
            lines.append(cells)
    return markdown(header, lines)


def _to_best_peer(row: Row, rows: Sequence[Row], measure: str) -> str:
    best = best_peer(rows, measure)
    if best is None:
        return _NONE
    if best is row:
        return "1, the best peer"
    return str(paired_ratio(row.figures[measure], best.figures[measure]))


def _name(row: Row) -> str:
    return f"**{row.engine}**" if row.ours else row.engine
