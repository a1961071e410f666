"""The model card's table: every metric on every split, with 95 % intervals.

python bench/accuracy.py [--model default] [--pictures 150] [--seed 77] [--json metrics.json]

Renders what is missing of the exam (data/exam/SPLIT, seeds that no training run uses), asks, and
prints Markdown. `photos` are the 19 labelled real pictures in examples/frames.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec

from edge_mm.data.tabletop.write import make_dataset
from edge_mm.demo.questions import shipped_frames
from edge_mm.evaluate.command import open_model
from edge_mm.evaluate.exam import examine
from edge_mm.evaluate.metrics import Metric

RENDERED = ("val", "meshes", "combos", "looks")
QUESTIONS = 14  # one of each type that is asked through a prompt
ROOT = Path("data/exam")


def main() -> None:
    """Examine and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="default", help="bundle or checkpoint")
    parser.add_argument("--pictures", type=int, default=150, help="of each rendered split")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    columns: dict[str, dict[str, Metric]] = {}
    with open_model(arguments.model) as session:
        for split in RENDERED:
            folder = ROOT / f"{split}-{arguments.seed}"
            make_dataset(folder, arguments.pictures, arguments.seed, split)
            columns[split] = examine(
                session.ask, folder, limit=arguments.pictures, questions=QUESTIONS
            )
            if split == "val":
                columns["templates"] = examine(
                    session.ask,
                    folder,
                    limit=arguments.pictures,
                    questions=QUESTIONS,
                    held_out=True,
                )
        columns["photos"] = examine(session.ask, shipped_frames(), questions=20)
    print(table(columns))
    if arguments.json:
        arguments.json.write_text(json.dumps(msgspec.to_builtins(columns), indent=1) + "\n")


def table(columns: dict[str, dict[str, Metric]]) -> str:
    """Markdown, percent with the interval's bounds."""
    names = sorted({name for metrics in columns.values() for name in metrics})
    lines = ["| metric | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = [
            f"{100 * m.value:.1f} ({100 * m.low:.0f}-{100 * m.high:.0f})"
            if (m := metrics.get(name))
            else ""
            for metrics in columns.values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
