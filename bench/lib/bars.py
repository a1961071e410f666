"""The bars that were set for speed (ratios to the best peer of the same run) and whether we reach.

A bar names what of ours is compared with what; `no_worse` leaves out those of our graphs that
agree less with the exact model than that peer does: a faster graph that says something else is no
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bench.lib.peers import LARGE_BLOCKS
from bench.lib.ratios import Ratio, paired_ratio, spread
from bench.lib.results import COLD_START, PEAK, PartResult, Row, best_peer
from bench.lib.table import markdown

INT4, INT8 = frozenset({"int4", "q4_0"}), frozenset({"int8", "q8_0", "w8a8", "w8a8-tensor"})
NEW_FRAME, SECOND = "new frame to answer", "second question on the frame"
INSTALLED = "installed, MB"
WITH_OPENCV, WITHOUT_OPENCV = "with OpenCV", "without OpenCV"


class Bar(NamedTuple):
    """`measure` of ours over that of the best peer is to be at most `most`.

    least      instead: the peer's over ours, a ratio of speeds, is to be at least so much
    ours       precisions of ours that count, None: all; peers: the same of the peers'
    but        peers whose name ends so are left out
    against    another measure of the same engine of ours, in place of a peer's
    engine     what a peer's name begins with
    p95_ms     instead of a ratio: 95 % of the rounds take no longer
    """

    work: str
    part: str
    measure: str
    most: float | None = None
    least: float | None = None
    ours: frozenset[str] | None = None
    peers: frozenset[str] | None = None
    but: str | None = None
    against: str | None = None
    engine: str = ""
    no_worse: bool = False
    p95_ms: float | None = None


BARS = (
    *(
        Bar(
            f"decode, {name}{known}",
            "text",
            "decode 128 at 300",
            least=1.15,
            ours=stored,
            peers=stored,
            but=but,
        )
        for name, stored in (("int4", INT4), ("int8", INT8))
        for known, but in (("", LARGE_BLOCKS), (f" (GenAI also in{LARGE_BLOCKS[1:]})", None))
    ),
    Bar("prefill 256", "text", "prefill 256", most=0.8, no_worse=True),
    Bar("SigLIP-B/16 at 224", "tower", "a picture", most=1.0),
    Bar("LLaVA, picture and 40 tokens", "llava", "to first token", most=0.8),
    Bar("shipped model, new frame to answer", "nano", NEW_FRAME, most=0.15),
    Bar("the same, p95 in ms", "nano", NEW_FRAME, p95_ms=60.0),
    Bar("second question on the frame", "nano", SECOND, most=0.35, against=NEW_FRAME),
    Bar("cold start, int8", "text", COLD_START, most=1.0, ours=INT8, engine="llama.cpp"),
    Bar("peak memory, int8", "text", PEAK, most=1.1, ours=INT8, peers=INT8, engine="llama.cpp"),
    *(
        Bar(
            f"installed size {opencv} from pip",
            "size",
            INSTALLED,
            most=1.6,
            ours=frozenset({opencv}),
            engine="onnxruntime alone",
        )
        for opencv in (WITH_OPENCV, WITHOUT_OPENCV)
    ),
)

_HEADER = ["bar", "best peer", "its", "ours", "our", "ratio (95 %)", "bar", "reached"]


def bars_table(results: Mapping[str, PartResult], bars: Sequence[Bar] = BARS) -> str:
    """Every bar whose part was run."""
    lines = [bar_cells(bar, results[bar.part].rows) for bar in bars if bar.part in results]
    return markdown(_HEADER, lines)


def bar_cells(bar: Bar, rows: Sequence[Row]) -> list[str]:
    """A line of the table; where one side was not measured, it says so."""
    known = [row for row in rows if row.engine.startswith(bar.engine)]
    if bar.but is not None:
        known = [row for row in known if not row.engine.endswith(bar.but)]
    theirs = best_peer(known, bar.measure, bar.peers)
    ours = _ours(bar, rows, theirs)
    if bar.against is not None:
        theirs = ours
    wanted = _wanted(bar)
    if ours is not None and bar.p95_ms is not None:
        found = float(np.percentile(ours.figures[bar.measure], 95))
        reached = _yes(found <= bar.p95_ms)
        return [bar.work, "", "", ours.engine, f"{found:.1f}", "", wanted, reached]
    if ours is None or theirs is None:
        missing = "ours was not measured" if ours is None else "no peer was measured"
        return [bar.work, "", "", "", "", "", wanted, missing]
    measure = bar.against or bar.measure
    ratio = _ratio(bar, ours, theirs)
    return [
        bar.work,
        theirs.engine if bar.against is None else f"{theirs.engine}, {bar.against}",
        str(spread(theirs.figures[measure])),
        ours.engine,
        str(spread(ours.figures[bar.measure])),
        str(ratio),
        wanted,
        _yes(_is_reached(bar, ratio)),
    ]


def _ours(bar: Bar, rows: Sequence[Row], theirs: Row | None) -> Row | None:
    """Our fastest of those that count."""
    known = [
        row
        for row in rows
        if row.ours
        and row.figures.get(bar.measure)
        and (bar.ours is None or row.precision in bar.ours)
        and not (bar.no_worse and _agrees_less(row, theirs))
    ]
    return min(known, key=lambda row: row.median(bar.measure), default=None)


def _agrees_less(ours: Row, theirs: Row | None) -> bool:
    if theirs is None or theirs.agreement is None:
        return False
    return ours.agreement is None or ours.agreement < theirs.agreement


def _ratio(bar: Bar, ours: Row, theirs: Row) -> Ratio:
    mine, other = ours.figures[bar.measure], theirs.figures[bar.against or bar.measure]
    return paired_ratio(other, mine) if bar.least is not None else paired_ratio(mine, other)


def _is_reached(bar: Bar, ratio: Ratio) -> bool:
    if bar.least is not None:
        return ratio.value >= bar.least
    assert bar.most is not None
    return ratio.value <= bar.most


def _wanted(bar: Bar) -> str:
    if bar.p95_ms is not None:
        return f"<= {bar.p95_ms:g} ms"
    return f">= {bar.least:g} x" if bar.least is not None else f"<= {bar.most:g} x"


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"
