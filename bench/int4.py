"""What int8 and int4 weights cost: int8 as shipped, int4 rounded to nearest and by GPTQ.

python bench/int4.py [--model models/nano] [--pictures 60]

The exam is that of accuracy.py (data/exam/val-77); GPTQ is fitted on other pictures
(data/exam/threshold). fp32 is torch, the others are the bundles that an export to the target cpu
writes, on ONNX Runtime. Prints Markdown with 95 % intervals; "as fp32" is the
share of answers whose text is that of the exact weights. Differences to fp32 are paired: both are
asked the same questions about the same pictures, which are drawn again together.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch

from edge_mm.data.tabletop.write import make_dataset
from edge_mm.evaluate.against import Difference, compare
from edge_mm.evaluate.exam import Marked, sit
from edge_mm.evaluate.metrics import figures, summarise
from edge_mm.model.session import open_model
from edge_mm_export.bundle import write_graphs
from edge_mm_export.checkpoint import Checkpoint, open_checkpoint
from edge_mm_export.linear import BlockWeights
from edge_mm_export.precision import PRECISIONS
from edge_mm_export.samples import read_samples
from edge_mm_export.vision import trace_vision
from edge_mm_runtime import Session

QUESTIONS = 14  # one of each type that is asked through a prompt
EXAM, CALIBRATION = Path("data/exam/val-77"), Path("data/exam/threshold")
SEEDS = {EXAM: 77, CALIBRATION: 2}
GROUNDING = "locate_acc50"
GOALS = {"int8": 0.5, "int4, GPTQ": 2.0}
"""How many points of `GROUNDING` each may lose."""


def main() -> None:
    """Quantise, examine and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/nano"), help="checkpoint")
    parser.add_argument("--pictures", type=int, default=60)
    arguments = parser.parse_args()
    for folder, seed in SEEDS.items():
        if not (folder / "scenes.json").is_file():
            make_dataset(folder, arguments.pictures, seed, "val")
    source = open_checkpoint(arguments.model)
    vision = trace_vision(
        source.vision_graph(), width=source.width, height=source.height, box_head=source.box_head
    )
    stored, unread = PRECISIONS["cpu"]["int4"], Path()  # our model asks by itself
    fitted = source.fit_blocks(read_samples(CALIBRATION), stored, exact=unread)
    models = {
        "fp32": open_model(source.model, arguments.model, source.model.config.grounding),
        "int8": bundled(source, vision, "int8"),
        "int4, to nearest": bundled(source, vision, "int4"),
        "int4, GPTQ": bundled(source, vision, "int4", fitted),
    }
    sittings: dict[str, list[list[Marked]]] = {}
    for name, opened in models.items():
        with opened as session:
            sittings[name] = sit(session.ask, EXAM, limit=arguments.pictures, questions=QUESTIONS)
    print(table(columns(sittings)), end="\n\n")
    against = differences(sittings)
    print("What each gains or loses against fp32, in points:\n")
    print(table({k: {m: points(d) for m, d in found.items()} for k, found in against.items()}))
    for name, goal in GOALS.items():
        found = against[name][GROUNDING]
        held = "holds" if -100 * found.value <= goal else "FAILS"
        print(f"\n{name}: {GROUNDING} {points(found)}, at most {goal} lost: {held}")


@contextmanager
def bundled(
    source: Checkpoint, vision: ir.Model, precision: str, quantised: BlockWeights | None = None
) -> Iterator[Session]:
    """The model as the target cpu stores it, on ONNX Runtime."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bundle"
        options = {"target": "cpu", "precision": precision, "quantised": quantised}
        write_graphs(folder, source, vision, **options)
        with Session(folder) as session:
            yield session


def columns(sittings: Mapping[str, list[list[Marked]]]) -> dict[str, dict[str, str]]:
    """By model and metric: percent and its interval."""
    cells = {}
    for name, pictures in sittings.items():
        metrics = summarise([[marked.scores for marked in picture] for picture in pictures])
        cells[name] = {
            metric: f"{100 * m.value:.1f} ({100 * m.low:.0f}-{100 * m.high:.0f})"
            for metric, m in metrics.items()
        }
        cells[name]["as fp32"] = f"{100 * alike(sittings['fp32'], pictures):.1f}"
    return cells


def differences(
    sittings: Mapping[str, list[list[Marked]]],
) -> dict[str, dict[str, Difference]]:
    """By model other than fp32 and metric: what it gains or loses."""
    found = {
        name: figures([[marked.scores for marked in picture] for picture in pictures])
        for name, pictures in sittings.items()
    }
    exact, pictures = found.pop("fp32"), len(sittings["fp32"])
    return {name: compare(ours, exact, pictures) for name, ours in found.items()}


def points(difference: Difference) -> str:
    """Points of a hundred, with the interval."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def alike(exact: list[list[Marked]], found: list[list[Marked]]) -> float:
    """The share of answers with the same words."""
    pairs = [
        (a.answer.text, b.answer.text)
        for theirs, ours in zip(exact, found, strict=True)
        for a, b in zip(theirs, ours, strict=True)
    ]
    return sum(a == b for a, b in pairs) / len(pairs)


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown, in percent."""
    lines = ["| metric | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in next(iter(columns.values())):
        lines.append(f"| {name} | " + " | ".join(cells[name] for cells in columns.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    with torch.no_grad():
        main()
