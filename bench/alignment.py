"""What each way to align is worth: equal steps, equal seeds, one change a row.

python bench/alignment.py [--seeds 3] [--scenes 1500] [--pictures 60] [--out runs/alignment]
                          [--rows "linear+mlp-2, no SEA"] [--json alignment.json]

Every row trains `recipes/alignment.yaml` with its change and sits the same exam on unseen scenes;
a row that is already in --out is read, not run again, so the bench can be stopped at any time.
Prints Markdown: the mean over the seeds, and the half-width of its 95 % interval (Student's t; the
spread between seeds is taken to be that of all rows together, as three runs alone tell little).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from edge_mm.data.tabletop.write import make_dataset
from edge_mm.evaluate.command import examine_model
from edge_mm.evaluate.suites import Plan
from edge_mm.model.checkpoint import load_model
from edge_mm.model.session import open_checkpoint
from edge_mm.train.loop import train
from edge_mm.train.recipe import load_recipe

RECIPE = Path("recipes/alignment.yaml")
WHOLE = "language: 1.0, pointing: 0.5, boxes: 1.0, looks: 0.5"
SPOKEN = "mentions: 0.5, places: 1.0"  # what the decoder has to know of the things it speaks of
NO_SEA = ["stages.1.losses={language: 1.0}", f"stages.2.losses={{{WHOLE}, {SPOKEN}}}"]
ROWS: dict[str, list[str]] = {
    "linear": ["model.projector={kind: linear}"],
    "mlp-2": [],
    "mlp-3": ["model.projector={kind: mlp, layers: 3}"],
    "pixel-shuffle": ["model.projector={kind: pixel_shuffle, factor: 2}"],
    "q-former": ["model.projector={kind: qformer, queries: 32, heads: 3}", *NO_SEA],
    "perceiver": ["model.projector={kind: perceiver, queries: 32, heads: 3}", *NO_SEA],
    "multi-scale": ["model.projector={kind: multi_scale, feature_layers: [1, -1]}"],
    "cross-attention": ["model.fusion={kind: cross_attention}"],
    "mlp-2, no SEA": NO_SEA,
    "mlp-2, no mentions": [f"stages.2.losses={{{WHOLE}, sea: 0.5}}"],
    "mlp-2, no contrastive": ["stages.0.losses={looks: 1.0, boxes: 1.0}"],
    "mlp-2, preference": ["stages.3.steps=40"],
}
COLUMNS = {  # suite and metric behind a column
    "Acc@0.5": ("grounding", ["locate_acc50"]),
    "VQA": ("hallucination", ["words_seen"]),
    "blind": ("hallucination", ["words_blank"]),  # the same questions about a grey picture
    "halluc. F1": (
        "hallucination",
        ["pope_random_f1", "pope_popular_f1", "pope_adversarial_f1"],
    ),
}
Z = 1.959964  # the normal distribution at 0.975


def main() -> None:
    """Render, train and examine what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=1500)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--rows", help="some rows only, by name, with + between")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="A.B=C")
    parser.add_argument("--out", type=Path, default=Path("runs/alignment"))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    train_data, val_data = Path("data/bench/train"), Path("data/bench/val")
    make_dataset(train_data, arguments.scenes, 11, "train")
    make_dataset(val_data, arguments.pictures, 12, "val")
    names = arguments.rows.split("+") if arguments.rows else list(ROWS)
    table: dict[str, list[dict[str, float]]] = {}
    for seed in range(1, arguments.seeds + 1):  # all rows of a seed first: a stop is no loss
        for name in names:
            out = run_folder(arguments.out, name, seed)
            overrides = [*ROWS[name], *arguments.overrides, f"train.seed={seed}"]
            row = measure(out, overrides, val_data, arguments.pictures)
            table.setdefault(name, []).append(row)
            print(f"{name}, seed {seed}: {row}", flush=True)
    for name, milliseconds in prefill_ms(arguments.out, names).items():
        for row in table[name]:
            row["prefill ms"] = milliseconds
    print(markdown(table))
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


def run_folder(out: Path, name: str, seed: int) -> Path:
    """Where a row of a seed is trained."""
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def measure(out: Path, overrides: list[str], data: Path, pictures: int) -> dict[str, float]:
    """The figures of one run; trained and examined only once."""
    found = out / "figures.json"
    if found.is_file():
        return dict(json.loads(found.read_text()))
    resumes = (out / "state" / "progress.json").is_file()
    checkpoint = train(load_recipe(RECIPE, overrides), out, resume=resumes)
    plan = Plan(("grounding", "hallucination"), data, pictures, questions=13, seed=5)
    metrics = examine_model(str(checkpoint), plan).metrics()
    row = {
        column: 100 * statistics.fmean(metrics[suite][name].value for name in wanted)
        for column, (suite, wanted) in COLUMNS.items()
    }
    model = load_model(checkpoint)
    row["tokens"] = model.config.image_tokens
    row["trained, M"] = (
        sum(p.numel() for n, p in model.named_parameters() if "backbone" not in n) / 1e6
    )
    found.write_text(json.dumps(row))
    return row


def prefill_ms(out: Path, names: list[str], repeats: int = 15) -> dict[str, float]:
    """Median of a first question about a new picture, vision included, torch fp32.

    All rows in turn, so that a machine whose speed drifts is fair to each.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        sessions = {
            name: stack.enter_context(open_checkpoint(run_folder(out, name, 1) / "checkpoint"))
            for name in names
        }
        for _ in range(repeats):
            frame = rng.integers(0, 256, (240, 240, 3), np.uint8)
            for name, session in sessions.items():
                start = time.perf_counter()
                session.ask(frame, "find the red cup", max_new_tokens=1)
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def markdown(table: dict[str, list[dict[str, float]]]) -> str:
    """A line a row: the mean ± half-width of what the exam gives."""
    columns = list(next(iter(table.values()))[0])
    spread = {name: pooled(table, name) for name in COLUMNS}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, runs in table.items():
        cells = []
        for column in columns:
            cell = f"{statistics.fmean(run[column] for run in runs):.1f}"
            if spread.get(column):
                cell += f" ± {spread[column] / len(runs) ** 0.5:.1f}"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pooled(table: dict[str, list[dict[str, float]]], column: str) -> float:
    """t(0.975) x the standard deviation between the seeds of a row, pooled; 0 with one seed."""
    squares, freedom = 0.0, 0
    for runs in table.values():
        mean = statistics.fmean(run[column] for run in runs)
        squares += sum((run[column] - mean) ** 2 for run in runs)
        freedom += len(runs) - 1
    if not freedom:
        return 0.0
    # Student's t by its expansion in 1/freedom (Abramowitz and Stegun 26.7.5)
    t = Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
    return t * (squares / freedom) ** 0.5


if __name__ == "__main__":
    main()
