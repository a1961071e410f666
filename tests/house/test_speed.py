"""bench/speed.py without an engine: turns, a part, arguments, accuracy, on fake workers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.lib.bars import BARS, bars_table
from bench.lib.limits import pass_bytes
from bench.lib.models import CPU_INT8, SMOLLM2
from bench.lib.parts import nano, text, tower
from bench.lib.results import COLD_START, PEAK, PartResult, Work
from bench.lib.run import OURS, Engine, Part, run_part
from bench.lib.table import part_tables
from bench.lib.turns import RETAKES, take_turns
from bench.speed import PARTS, parse_arguments, points_of, with_peers
from edge_mm_runtime.errors import UsageError
from tests.house.speed_rows import MACHINE, cells, row

PREFILL, DECODE = Work("prefill", {"prefill": 1}), Work("decode", {"decode": 1}, tokens=10)


class Fake:
    """Writes down when it was asked; dies at its n-th request."""

    def __init__(self, name: str, asked: list[str], dies_at: int | None = None) -> None:
        self.name, self.asked, self.dies_at, self.count = name, asked, dies_at, 0

    def ask(self, request: dict[str, Any]) -> float:
        self.count += 1
        if self.count == self.dies_at:
            raise RuntimeError("it ran out of memory\nand more")
        self.asked.append(f"{self.name} {next(iter(request))}")
        return float(self.count)


def shares(*values: float) -> Callable[[], float]:
    """What others use, look after look; the last for ever."""
    left = list(values)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def test_engines_take_turns_in_alternating_order() -> None:
    asked: list[str] = []
    workers = {name: Fake(name, asked) for name in "ab"}
    turns = take_turns(workers, [PREFILL, DECODE], 2, others=shares(0.0), rest_s=0)
    one, other = ["a prefill", "a decode"], ["b prefill", "b decode"]
    assert asked == [*one, *other, *other, *one, *one, *other]  # a warm-up, then two rounds
    # Answers count requests: 1 and 2 were the warm-up's, and are of no row.
    assert turns.times == {name: {"prefill": [3.0, 5.0], "decode": [4.0, 6.0]} for name in "ab"}
    assert turns.again == turns.disturbed == 0


def test_a_round_beside_others_is_taken_again() -> None:
    worker = Fake("a", [])
    # Looks: before the warm-up, after it, after each round; the second round has others after it,
    # so that the third has them before it.
    turns = take_turns(
        {"a": worker}, [PREFILL], 2, others=shares(0, 0, 0.01, 0.3, 0, 0.02), rest_s=0
    )
    assert turns.times["a"]["prefill"] == [2.0, 5.0]
    assert (turns.again, turns.disturbed, turns.others) == (2, 0, [0.01, 0.02])


def test_rounds_are_taken_again_so_often_and_then_told() -> None:
    worker = Fake("a", [])
    turns = take_turns({"a": worker}, [PREFILL], 2, others=shares(0.5), rest_s=0)
    assert worker.count == 1 + RETAKES + 2
    assert (turns.again, turns.disturbed) == (RETAKES, 2)


def test_an_engine_that_dies_leaves_the_others_going() -> None:
    asked: list[str] = []
    workers = {"a": Fake("a", asked, dies_at=4), "b": Fake("b", asked)}
    turns = take_turns(workers, [PREFILL], 4, others=shares(0.0), rest_s=0)
    assert turns.failed == {"a": "it ran out of memory"}
    assert turns.times == {"b": {"prefill": [2.0, 3.0, 4.0, 5.0]}}


def test_no_engine_at_all_is_no_endless_loop() -> None:
    assert (
        take_turns(
            {"a": Fake("a", [], dies_at=1)}, [PREFILL], 3, others=shares(0.0), rest_s=0
        ).times
        == {}
    )


def test_works_of_smollm2_are_those_of_its_bytes() -> None:
    *_, decode = text.works()
    assert decode.load is not None and decode.tokens == 128
    assert decode.load(CPU_INT8).bytes == 128 * pass_bytes(SMOLLM2, CPU_INT8, 364)
    assert [work.request for work in text.works()[:2]] == [{"prefill": 256}, {"prefill": 512}]


def test_every_bar_names_a_part_and_what_is_measured_there() -> None:
    works = {
        "text": {work.name for work in text.works()} | {COLD_START, PEAK},
        "nano": {work.name for work in nano.WORKS},
        "tower": {"a picture"},
        "llava": {"to first token"},
        "size": {"installed, MB"},
    }
    assert set(works) == set(PARTS)
    assert all({bar.measure, bar.against or bar.measure} <= works[bar.part] for bar in BARS)
    assert len(BARS) == 14  # the ten of the issue, four of them in two lines
    result = PartResult(part="size", rows=[row("edge-mm[cpu]", installed=[1.0])])
    assert len(bars_table({"size": result}).splitlines()) == 2 + 2


FAKE_WORKER = """
import json, sys
for line in sys.stdin:
    answer = float(sys.argv[1]) * (2 if "decode" in line else 1)
    print("BENCH_ANSWER " + json.dumps({"answer": answer}), flush=True)
"""


def test_a_part_from_processes_to_markdown(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(FAKE_WORKER)

    def broken() -> list[str]:
        raise UsageError("environment x: pip failed")

    engines = [
        Engine("edge-mm int8", OURS, "int8", lambda: [sys.executable, str(script), "3"]),
        Engine("Peer int8", "Peer Engine", "int8", lambda: [sys.executable, str(script), "4"]),
        Engine("broken", "broken", "int8", broken),
        Engine("dead", "dead", "int8", lambda: [sys.executable, "-c", "raise SystemExit(3)"]),
    ]
    part = Part(
        name="text",
        engines=engines,
        works=[PREFILL, DECODE],
        rounds=2,
        first={"prefill": 1},
        judge=lambda workers: dict.fromkeys(workers, ("as exact", 1.0)),
        starts=2,
        more=lambda workers: [f"more of {len(workers)}"],
    )
    result = run_part(part, None, lambda line: None, others=lambda: 0.0)
    rows = {found.engine: found for found in result.rows}
    assert rows["edge-mm int8"].figures["decode"] == [6.0, 6.0]
    assert len(rows["Peer int8"].figures[COLD_START]) == 2
    assert rows["Peer int8"].figures[PEAK] == [4.0]
    assert rows["broken"].failure == "environment x: pip failed"
    assert rows["dead"].failure and not rows["dead"].figures
    written = part_tables(result, part.works, MACHINE)
    assert "0.75 (0.75-0.75)" in written and "- broken: environment x: pip failed" in written
    assert "more of 2" in written and "taken again" in written and "as exact" in written
    for line in (line for line in written.splitlines() if line.startswith("|")):
        assert len(cells(line)) in (4, 5)
    assert not points_of(result.rows, part.works)  # no work of theirs has a roofline
    assert [one.name for one in with_peers(part, ("engine",)).engines] == [
        "edge-mm int8",
        "Peer int8",
    ]
    assert [one.name for one in with_peers(part, ("none",)).engines] == ["edge-mm int8"]
    assert with_peers(part, ()) is part


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_arguments([]).only == ()
    assert parse_arguments(["--only", "text+nano"]).only == ("text", "nano")
    for wrong in (["--only", "texts"], ["--rounds", "0"]):
        with pytest.raises(SystemExit):
            parse_arguments(wrong)
    assert "unknown part 'texts'" in capsys.readouterr().err


def test_leading_tokens_and_answers_as_torch() -> None:
    assert text.leading([1, 2, 9, 4], [1, 2, 3, 4]) == 2
    assert text.leading([], [1]) == 0

    class Says:
        def __init__(self, *words: str) -> None:
            self.words = list(words)

        def ask(self, request: dict[str, Any]) -> list[str]:
            return self.words

    workers: Any = {nano.TORCH: Says("a", "b"), "edge-mm": Says("a", "c")}
    assert nano.judge(workers)["edge-mm"] == ("1/2 answers as torch", 1.0)


def test_tower_features_are_compared_by_cosine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    np.save(tmp_path / "exact.npy", exact)
    monkeypatch.setattr(tower, "FOLDER", tmp_path)

    class Writes:
        def ask(self, request: dict[str, Any]) -> int:
            np.save(request["features"], 2 * exact + 0.1)
            return 4

    workers: Any = {"engine": Writes()}
    a, b = exact.ravel(), (2 * exact + 0.1).ravel()
    expected = 1 - stats.pearsonr(a, b).statistic  # nearly: means are not zero
    ((words, found),) = tower.judge(workers).values()
    assert found == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-6)
    assert words.startswith("cosine 0.99") and expected < 0.01
