"""Through time: what is shown of moving things, with the model at 1, 2 and 3 answers a second.

python bench/temporal.py [--bundle default] [--seeds 0 1 2 3] [--frames 90] [--json figures.json]

Renders what is missing of the sequences (data/bench/motion, 30 frames a second), asks the model
about every frame of each, and plays them on a simulated clock (edge_mm/evaluate/temporal_run.py):
the model's boxes tracked, against the same boxes held until the next answer, and against the model
asked about every frame. Prints Markdown; the figures are explained in edge_mm/evaluate/temporal.py.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec

from edge_mm.data.tabletop.motion import (
    MotionSequence,
    make_sequence,
    read_sequence,
    write_sequence,
)
from edge_mm.evaluate.temporal import Tally, TemporalFigures, figures, measure, merged
from edge_mm.evaluate.temporal_run import alone, simulate
from edge_mm.words import plural
from edge_mm_runtime import Answer, Session

ROOT = Path("data/bench/motion")
RATES_HZ = (1.0, 2.0, 3.0)
COLUMNS = {
    "mean IoU": lambda f: f"{f.iou:.3f}",
    "found": lambda f: f"{100 * f.found:.0f} %",
    "centre error": lambda f: _percent(f.centre_error),
    "jitter": lambda f: "" if f.jitter is None else f"{f.jitter:.2f} %",
    "flicker /s": lambda f: f"{f.flicker_per_s:.2f}",
    "id switches": lambda f: f"{f.switches}",
    "ids a thing": lambda f: "" if f.ids_per_thing is None else f"{f.ids_per_thing:.2f}",
    "false boxes /frame": lambda f: f"{f.false_boxes:.3f}",
    "losses declared": lambda f: f"{f.declared} of {f.losses}" if f.declared else "",
    "after, s": lambda f: "" if f.delay_s is None else f"{f.delay_s:.2f}",
    "false losses": lambda f: f"{f.false_losses}",
}


def main() -> None:
    """Render, ask, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", default="default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    rows: dict[str, list[Tally]] = {}
    with Session(arguments.bundle) as session:
        for seed in arguments.seeds:
            sequence = cached(seed, arguments.frames)
            for name, tally in examine(session, sequence):
                rows.setdefault(name, []).append(tally)
    found = {name: figures(merged(tallies)) for name, tallies in rows.items()}
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(msgspec.to_builtins(found), indent=1) + "\n")


def cached(seed: int, frames: int) -> MotionSequence:
    """A sequence from disk; rendered first, where it is not there."""
    folder = ROOT / f"{seed}-{frames}"
    if not (folder / "sequence.json").exists():
        write_sequence(make_sequence(seed, frames), folder)
    return read_sequence(folder)


def questions(sequence: MotionSequence) -> dict[str, tuple[int, ...]]:
    """Text -> the things that it asks for: each one alone, and the two of one kind together."""
    kind = sequence.labels[0].split()[-1]
    each = {f"find the {label}": (k,) for k, label in enumerate(sequence.labels)}
    return each | {f"find all {plural(kind)}": (0, 1)}


def examine(session: Session, sequence: MotionSequence) -> list[tuple[str, Tally]]:
    """One sequence: the tallies of every question, by row of the table."""
    asked = questions(sequence)
    answers: dict[str, list[Answer]] = {text: [] for text in asked}
    for frame in sequence.frames:  # all questions of a frame in turn: it is seen once
        for text in asked:
            answers[text].append(session.ask(frame, text, mode="locate"))
    rate = sequence.frames_per_s
    tallies = []
    for text, things in asked.items():
        truth = [{k: s for k, s in seen.items() if k in things} for seen in sequence.truth]
        given = answers[text].__getitem__
        every = alone(len(sequence.frames), given)
        tallies.append((f"model alone, at {rate:.0f} Hz", measure(every, truth, rate)))
        for rate_hz in RATES_HZ:
            runs = simulate(sequence.frames, given, rate_hz=rate_hz, frames_per_s=rate)
            for name, run in (("held", runs.held), ("tracked", runs.tracked)):
                tally = measure(run, truth, rate, first=runs.first)
                tallies.append((f"{rate_hz:.0f} Hz, {name}", tally))
    return tallies


def table(rows: dict[str, TemporalFigures]) -> str:
    """Markdown; id and loss figures only of what is tracked, the others have neither."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    tracked_only = {"id switches", "ids a thing", "losses declared", "after, s", "false losses"}
    for name, found in rows.items():
        cells = [
            "" if column in tracked_only and "tracked" not in name else write(found)
            for column, write in COLUMNS.items()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
