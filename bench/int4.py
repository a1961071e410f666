"""What int4 weights cost the decoder: rounded to nearest, and by GPTQ. Torch alone, no graphs.

python bench/int4.py [--model models/nano] [--pictures 60]

The exam is that of accuracy.py (data/exam/val-77); GPTQ is fitted on other pictures
(data/exam/threshold). Activations stay fp32. Prints Markdown with 95 % intervals; "as fp32" is the
share of answers whose text is that of the exact weights.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from edge_mm.data.tabletop.write import make_dataset
from edge_mm.evaluate.exam import Marked, sit
from edge_mm.evaluate.metrics import summarise
from edge_mm.model.checkpoint import load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.session import open_model
from edge_mm_export.hessians import gptq_weights, named_linears, read_passages, set_weight
from edge_mm_export.quantise import BlockWeight, quantise_blocks
from edge_mm_export.samples import read_samples

QUESTIONS = 14  # one of each type that is asked through a prompt
BITS = 4
EXAM, CALIBRATION = Path("data/exam/val-77"), Path("data/exam/threshold")
SEEDS = {EXAM: 77, CALIBRATION: 2}


def main() -> None:
    """Quantise, examine and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/nano"), help="checkpoint")
    parser.add_argument("--pictures", type=int, default=60)
    arguments = parser.parse_args()
    for folder, seed in SEEDS.items():
        if not (folder / "scenes.json").is_file():
            make_dataset(folder, arguments.pictures, seed, "val")
    model = load_model(arguments.model)
    passages = read_passages(model, arguments.model, read_samples(CALIBRATION))
    models = {
        "fp32": model,
        "int4, to nearest": with_weights(model, rounded_to_nearest(model)),
        "int4, GPTQ": with_weights(model, gptq_weights(model, passages, bits=BITS)),
    }
    sittings: dict[str, list[Marked]] = {}
    columns: dict[str, dict[str, str]] = {}
    for name, one in models.items():
        with open_model(one, arguments.model, one.config.grounding) as session:
            pictures = sit(session.ask, EXAM, limit=arguments.pictures, questions=QUESTIONS)
        metrics = summarise([[marked.scores for marked in picture] for picture in pictures])
        sittings[name] = [marked for picture in pictures for marked in picture]
        columns[name] = {
            metric: f"{100 * m.value:.1f} ({100 * m.low:.0f}-{100 * m.high:.0f})"
            for metric, m in metrics.items()
        }
        columns[name]["as fp32"] = f"{100 * alike(sittings['fp32'], sittings[name]):.1f}"
    print(table(columns))


def rounded_to_nearest(model: EdgeMM) -> dict[str, BlockWeight]:
    """What the exporter does without calibration."""
    return {
        name: quantise_blocks(torch.cat([linear.weight for linear in linears]).numpy(), BITS)
        for name, linears in named_linears(model).items()
    }


def with_weights(model: EdgeMM, weights: Mapping[str, BlockWeight]) -> EdgeMM:
    """A copy of the model that multiplies by these weights; its token table stays exact."""
    copied = copy.deepcopy(model)
    for name, linears in named_linears(copied).items():
        set_weight(linears, weights[name])
    return copied


def alike(exact: list[Marked], found: list[Marked]) -> float:
    """The share of answers with the same words."""
    pairs = [(a.answer.text, b.answer.text) for a, b in zip(exact, found, strict=True)]
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
