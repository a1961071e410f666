"""What bench/speed.py shows: ratios beside scipy's, tables, the picture and the bars."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from bench.lib.bars import Bar, bar_cells
from bench.lib.limits import Precision
from bench.lib.plot import Point, draw
from bench.lib.ratios import paired_ratio, spread
from bench.lib.results import Load, Work, best_peer
from bench.lib.table import work_table
from tests.house.speed_rows import MACHINE, SVG, cells, row


def test_spread_is_scipys() -> None:
    values = np.random.default_rng(0).gamma(3, 20, 31)
    found = spread(values.tolist())
    assert found.middle == pytest.approx(np.median(values))
    assert found.half == pytest.approx(stats.iqr(values) / 2)
    assert str(spread([100.0, 102.0, 108.0])) == "102 ± 2"
    assert str(spread([5.0])) == "5.00"


def test_ratio_interval_is_scipys_paired_bootstrap() -> None:
    rng = np.random.default_rng(1)
    drift = rng.uniform(1, 3, 25)  # of the machine: both are slow in the same rounds
    mine, theirs = drift * rng.normal(8, 0.4, 25), drift * rng.normal(10, 0.4, 25)
    found = paired_ratio(mine.tolist(), theirs.tolist())
    expected = stats.bootstrap(
        (mine, theirs),
        lambda a, b, axis=-1: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        random_state=5,
    ).confidence_interval
    assert found.value == pytest.approx(np.median(mine) / np.median(theirs))
    assert found.low == pytest.approx(expected.low, rel=0.03)
    assert found.high == pytest.approx(expected.high, rel=0.03)
    # Rounds that were not paired would know nothing of the drift, and be much wider.
    apart = paired_ratio(mine.tolist(), rng.permutation(theirs).tolist())
    assert apart.high - apart.low > 2 * (found.high - found.low)  # type: ignore[operator]


def test_ratio_of_single_figures_and_of_other_rounds() -> None:
    assert str(paired_ratio([3.0], [4.0])) == "0.75"
    with pytest.raises(ValueError, match="same rounds"):
        paired_ratio([1.0, 2.0], [1.0])


def test_best_peer_is_the_fastest_of_the_others() -> None:
    rows = [
        row("edge-mm int8", work=[1.0]),
        row("slow", work=[9.0, 9.0, 1.0]),
        row("fast", "Q4_0", work=[5.0, 5.0, 30.0]),
        row("none"),
    ]
    assert best_peer(rows, "work") is rows[2]
    assert best_peer(rows, "work", frozenset({"int8"})) is rows[1]
    assert best_peer(rows[:1], "work") is None


def test_table_shows_time_rate_ratio_limit_and_accuracy() -> None:
    def load(stored: Precision) -> Load:
        return Load(1e9 * stored.linear, 1e9)

    work = Work("decode", {}, tokens=128, load=load)
    ours, peer = row("edge-mm fp32", "fp32", decode=[800.0] * 3), row("peer", decode=[640.0] * 3)
    ours.accuracy = "64/64 | greedy"
    header, _, *lines = work_table([ours, peer], work, MACHINE).splitlines()
    assert cells(header)[-3:] == ["GOP/s", "share of limit", "accuracy"]
    assert cells(lines[0])[:4] == ["peer", "640", "200", "1, the best peer"]
    # fp32: 4 GB at 10 GB/s is 0.4 s of the 0.8 s; 1 GOP in 0.8 s.
    assert cells(lines[1].replace("\\|", "or")) == [
        *("**edge-mm fp32**", "800", "160", "1.25 (1.25-1.25)"),
        *("1", "50 % of reading", "64/64 or greedy"),
    ]


def test_products_are_the_limit_where_more_is_computed_than_read() -> None:
    work = Work("prefill", {}, load=lambda stored: Load(1e6, 100e9))
    table = work_table([row("edge-mm int8", prefill=[500.0])], work, MACHINE)
    assert "50 % of 8-bit products" in table  # 100 GOP at 400 GOP/s is 0.25 s
    unknown = work_table([row("edge-mm int8", "q3_k", prefill=[500.0])], work, MACHINE)
    assert "products" not in unknown


def test_svg_has_every_point_below_its_roof() -> None:
    points = [
        Point("edge-mm <int8>", "decode", True, Load(100e6, 200e6), 0.02),
        Point("peer&co int4", "prefill", False, Load(100e6, 50e9), 0.25),
    ]
    svg = ElementTree.fromstring(draw(points, MACHINE))
    marks = {title.text: mark for mark in svg.iter(f"{SVG}circle") for title in mark}
    assert set(marks) == {
        "edge-mm <int8>, decode: 10.0 GOP/s",
        "peer&co int4, prefill: 200.0 GOP/s",
    }
    ours, peer = (marks[name] for name in sorted(marks))
    assert float(ours.get("cx", "")) < float(peer.get("cx", ""))
    assert float(ours.get("cy", "")) > float(peer.get("cy", ""))  # up is less
    words = [found.text for found in svg.iter(f"{SVG}text")]
    assert {"8-bit products 400", "fp32 products 100", "read 10 GB/s", "peer&co"} <= set(words)
    # A decade of operations a second, read off the roofs, places the points: log10(400 / 10).
    lines = [line for line in svg.iter(f"{SVG}line") if line.get("stroke") == "#888888"]
    eight, fp32, _ = (float(line.get("y2", "")) for line in lines)
    decade = (fp32 - eight) / np.log10(4)
    assert float(ours.get("cy", "")) - eight == pytest.approx(decade * np.log10(40), abs=0.3)


def test_svg_without_a_point() -> None:
    with pytest.raises(ValueError, match="no point"):
        draw([], MACHINE)


def test_bars_of_speed_and_of_time() -> None:
    rows = [
        row("edge-mm int4", "int4", work=[80.0] * 3),
        row("edge-mm int8", "int8", work=[70.0] * 3),
        row("peer int4", "q4_0", work=[100.0] * 3),
        row("peer int8", "int8", work=[60.0] * 3),
    ]
    faster = Bar(
        "decode", "p", "work", least=1.15, ours=frozenset({"int4"}), peers=frozenset({"q4_0"})
    )
    assert bar_cells(faster, rows)[1:] == [
        *("peer int4", "100", "edge-mm int4", "80.0", "1.25 (1.25-1.25)", ">= 1.15 x", "yes")
    ]
    shorter = Bar("prefill", "p", "work", most=0.8)
    assert bar_cells(shorter, rows)[1::2] == [
        "peer int8",
        "edge-mm int8",
        "1.17 (1.17-1.17)",
        "**no**",
    ]


def test_a_graph_that_agrees_less_does_not_reach_a_bar() -> None:
    rows = [
        row("edge-mm w8a8", "w8a8", 150, work=[10.0]),
        row("edge-mm int8", "int8", 170, work=[30.0]),
        row("peer", "int8", 160, work=[40.0]),
    ]
    bar = Bar("prefill", "p", "work", most=0.8, no_worse=True)
    assert bar_cells(bar, rows)[3:6] == ["edge-mm int8", "30.0", "0.75"]
    rows[1].agreement = None
    assert bar_cells(bar, rows)[-1] == "ours was not measured"


def test_bars_within_ours_and_of_p95() -> None:
    rows = [row("edge-mm default", first=[20.0] * 18 + [70.0, 90.0], second=[5.0] * 20)]
    within = Bar("second", "p", "second", most=0.35, against="first")
    assert bar_cells(within, rows)[-1] == "yes"
    late = Bar("p95", "p", "first", p95_ms=60.0)
    assert bar_cells(late, rows)[4:] == ["71.0", "", "<= 60 ms", "**no**"]
    assert bar_cells(Bar("x", "p", "first", most=1.0), rows)[-1] == "no peer was measured"
