"""The log of a run: which lines count, where they lie, what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_mm.report.curves import HEIGHT, POINTS, WIDTH, Axis, Stage, curves, read_log, stages_of
from edge_mm_runtime.errors import UsageError


def line(stage: str, step: int, samples: int, **values: float) -> dict:
    return {"stage": stage, "step": step, "samples": samples, **values}


def written(path: Path, lines: list[dict], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines) + rest)
    return path


def test_of_a_step_reached_twice_the_later_line_counts(tmp_path: Path) -> None:
    first = [line("a", 2, 20, loss=9.0), line("a", 4, 40, loss=8.0), line("b", 2, 48, loss=7.0)]
    again = [line("a", 4, 40, loss=5.0), line("b", 2, 48, loss=4.0)]
    log = read_log(written(tmp_path / "log.jsonl", first + again))
    assert [(one["samples"], one["loss"]) for one in log] == [(20, 9.0), (40, 5.0), (48, 4.0)]
    anew = [line("a", 2, 20, loss=1.0)]
    log = read_log(written(tmp_path / "log.jsonl", first + again + anew))
    assert [one["loss"] for one in log] == [1.0]


def test_looks_at_held_out_data_lie_between_their_steps(tmp_path: Path) -> None:
    lines = [
        line("a", 10, 320, loss=3.0),
        line("b", 4, 352, loss=2.0),
        {"stage": "b", "step": 6, "val": 1.0, "val_loss": 2.5},  # of 8 samples a step
    ]
    assert read_log(written(tmp_path / "log.jsonl", lines))[-1]["samples"] == 368


def test_what_cannot_be_read(tmp_path: Path) -> None:
    good = [line("a", 2, 20, loss=9.0)]
    torn = written(tmp_path / "torn.jsonl", good, '{"stage": "a", "st')
    assert len(read_log(torn)) == 1  # a trainer is writing
    with pytest.raises(UsageError, match=r"bad\.jsonl, line 2 cannot be read"):
        read_log(written(tmp_path / "bad.jsonl", good, "{\n"))
    assert read_log(tmp_path / "none.jsonl") == []


def test_stages_and_their_places() -> None:
    marks = [("a", 0), ("b", 1000), ("a", 10), ("b", 400), ("a", 4)]
    stages = stages_of(marks)
    assert stages == [Stage("a", 0, 10), Stage("b", 10, 1000)]
    axis = Axis(stages)
    assert axis.x(0) == 0 and axis.x(1000) == WIDTH
    assert 0.1 * WIDTH < axis.x(10) < 0.13 * WIDTH  # a hundredth of the run, drawn wider
    middle = (axis.x(10) + axis.x(1000)) / 2
    assert axis.x(505) == pytest.approx(float(middle))


def points(polyline: str) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in polyline.split()]


def test_a_curve_spans_its_drawing_and_breaks_between_stages() -> None:
    lines = [
        line("a", 1, 10, loss=4.0, only=1.0),
        line("a", 2, 20, loss=2.0, only=1.0),
        line("b", 1, 30, loss=3.0, val_loss=6.0),
        line("b", 2, 40, loss=float("nan")),
    ]
    axis = Axis(stages_of([("a", 0), ("a", 20), ("b", 40)]))
    loss, only = curves(lines, axis)
    assert (loss.name, loss.low, loss.high, loss.last) == ("loss", 2.0, 6.0, 3.0)
    half, (single,) = points(loss.lines[0]), (loss.lines[1],)
    assert half == [(WIDTH / 4, HEIGHT / 2), (WIDTH / 2, HEIGHT)]
    assert [y for _, y in points(single)] == [HEIGHT * 3 / 4] * 2  # a dash
    assert [y for _, y in points(loss.held_out[0])] == [0.0, 0.0]
    assert only.name == "only" and len(only.lines) == 1
    assert {y for _, y in points(only.lines[0])} == {HEIGHT / 2}


def test_a_long_run_is_drawn_in_few_points() -> None:
    lines = [line("a", step, step, loss=step % 2) for step in range(1, 5001)]
    (curve,) = curves(lines, Axis([Stage("a", 0, 5000)]))
    drawn = points(curve.lines[0])
    assert len(drawn) == POINTS
    assert sum(y for _, y in drawn) / POINTS == pytest.approx(HEIGHT / 2, abs=1)
