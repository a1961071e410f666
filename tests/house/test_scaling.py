"""docs/scaling.md: every number of its tables follows from its values by its formulae."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.train.recipe import load_recipe

PAGE = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"
RECIPE = PAGE.parents[1] / "recipes" / "scale" / "3b.yaml"
GB = 1e9
ROOM = 72  # GB of a GPU


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table by its header, without the bold."""
    found: dict[str, list[list[str]]] = {}
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.M):
        header, _, *rows = block.replace("**", "").splitlines()
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        found[", ".join(cell.strip() for cell in header.strip("|").split("|"))] = cells
    return found


TABLES = tables()
VALUE = {row[0]: float(row[1]) for row in TABLES["symbol, value, what"]}
N, N_REST, N_LAYER = VALUE["N"], VALUE["N_rest"], VALUE["N_layer"]
STATES = VALUE["s"] * VALUE["h_l"] * VALUE["L_l"] + VALUE["T"] * VALUE["h_v"] * VALUE["L_v"]
LOGITS = 14 * VALUE["a"] * VALUE["s"] * VALUE["V"]
FLOPS = 6 * (VALUE["N_l"] * VALUE["s"] + VALUE["N_v"] * VALUE["T"])
RATE = VALUE["m"] * VALUE["P"] / FLOPS  # rows/s of a GPU


def ddp(gpus: float) -> float:
    return 18 * N / GB


def zero2(gpus: float) -> float:
    return (6 * N + 16 * N / gpus) / GB


def fsdp(gpus: float) -> float:
    return fsdp_recomputed(gpus) + 2 * N / GB


def fsdp_recomputed(gpus: float) -> float:
    return (16 * N / gpus + 8 * N_REST + 16 * N_LAYER) / GB


def hsdp(gpus: float) -> float:
    return fsdp(8)


def kept(rows: float) -> float:
    return rows * (34 * STATES + LOGITS) / GB


def recomputed(rows: float) -> float:
    return rows * (2 * STATES + 34 * VALUE["s"] * VALUE["h_l"] + LOGITS) / GB


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def agrees(cell: str, expected: float) -> None:
    """To half a unit of the last digit that is shown."""
    digits = len(cell.partition(".")[2])
    assert number(cell) == pytest.approx(expected, abs=0.501 * 10**-digits), cell


def largest(states: float, activations: Callable[[float], float]) -> int:
    return 2 ** math.floor(math.log2((ROOM - states) / activations(1)))


def test_memory() -> None:
    for gpus, *cells in TABLES["GPUs, DDP, ZeRO-2, FSDP, FSDP, ckpt, HSDP"]:
        for cell, how in zip(cells, (ddp, zero2, fsdp, fsdp_recomputed, hsdp), strict=True):
            agrees(cell, how(number(gpus)))
    for rows, *cells in TABLES["rows of a micro-batch, kept, GB, ckpt, GB"]:
        agrees(cells[0], kept(number(rows)))
        agrees(cells[1], recomputed(number(rows)))
    assert re.search(rf"4 N = {4 * N / GB:.1f} GB", PAGE.read_text())


def test_what_fits() -> None:
    ways = (
        (ddp, kept), (ddp, recomputed), (zero2, kept), (fsdp, kept),
        (fsdp_recomputed, recomputed), (hsdp, kept),
    )  # fmt: skip
    rows = TABLES["GPUs, DDP, DDP, ckpt, ZeRO-2, FSDP, FSDP, ckpt, HSDP"]
    for gpus, *cells in rows:
        expected = [largest(states(number(gpus)), used) for states, used in ways]
        assert [int(cell) for cell in cells] == expected
    for gpus in (256, 1024):
        as_64 = [largest(states(gpus), used) for states, used in ways]
        assert [int(cell) for cell in rows[-1][1:]] == as_64


def test_throughput() -> None:
    header = "GPUs, how, b, k, B, rate x, rows/s, Mtokens/s, step, s, hours for 10^8 rows"
    for cells in TABLES[header]:
        gpus, b, k, batch = (number(cells[i]) for i in (0, 2, 3, 4))
        assert batch == gpus * b * k
        agrees(cells[5], math.sqrt(batch / 512))
        agrees(cells[6], gpus * RATE)
        agrees(cells[7], gpus * RATE * VALUE["s"] / 1e6)
        agrees(cells[8], k * b / RATE)
        agrees(cells[9], 1e8 / (gpus * RATE) / 3600)
        states = {"FSDP": fsdp, "HSDP": hsdp}[cells[1]](gpus)
        assert states + kept(b) < ROOM


def test_network() -> None:
    weights = 4 * N
    rings = {"DDP": 2, "FSDP": 3, "HSDP": 3}
    for cells in TABLES["GPUs, how, b, within, GB, s, between, GB, s, computing, s, hides"]:
        gpus, how, b = number(cells[0]), cells[1], number(cells[2])
        machines = gpus / 8
        sent = rings[how] * (gpus - 1) / gpus * weights
        within, between = (sent, 0.0) if machines == 1 else (0.0, sent)
        if how == "HSDP":
            within = 3 * 7 / 8 * weights
            between = 2 * (machines - 1) / machines * weights / 8
        times = within / VALUE["B_in"], between / VALUE["B_out"]
        for cell, expected in zip(
            cells[3:8], (within / GB, times[0], between / GB, times[1], b / RATE), strict=True
        ):
            agrees(cell, expected)
        assert cells[8] == ("yes" if max(times) < b / RATE else "no")
    once = 2 * 63 / 64 * weights / VALUE["B_out"]  # DDP on 64 GPUs, b = 8
    assert 3 * 8 / RATE < once < 4 * 8 / RATE
    assert "DDP hides with k = 4" in PAGE.read_text()


def test_data() -> None:
    header = (
        "GPUs, pictures/s, MB/s of a machine, MB/s of the store, workers of a GPU, shards, at least"
    )
    for gpus, pictures, machine, store, workers, shards in TABLES[header]:
        agrees(pictures, number(gpus) * RATE)
        agrees(machine, 8 * RATE * VALUE["d"] / 1e6)
        agrees(store, number(gpus) * RATE * VALUE["d"] / 1e6)
        assert number(workers) == math.ceil(2 * RATE * VALUE["t"])
        assert number(shards) == number(gpus) * number(workers)


def test_the_recipe_is_this_model() -> None:
    recipe = load_recipe(RECIPE, [])
    model, data = recipe.model, recipe.data
    with torch.device("meta"):
        built = EdgeMM(
            ModelConfig(vision=model.vision, projector=model.projector, language=model.language)
        )

    def size(module: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in module.parameters())

    layers = size(built.lm.model.layers) + size(built.vision.encoder)
    for name, expected in (
        ("N", size(built)),
        ("N_v", size(built.vision.encoder)),
        ("N_l", size(built.lm)),
        ("N_layer", size(built.lm.model.layers[0])),
        ("N_rest", size(built) - layers),
        ("h_l", model.language.hidden_size),
        ("L_l", model.language.num_hidden_layers),
        ("h_v", model.vision.hidden_size),
        ("L_v", model.vision.layers),
        ("V", model.language.vocab_size),
        ("s", data.max_tokens),
        ("T", model.vision.tokens),
    ):
        assert VALUE[name] == pytest.approx(expected, rel=2e-3), name
    first = TABLES["GPUs, how, b, k, B, rate x, rows/s, Mtokens/s, step, s, hours for 10^8 rows"][0]
    for stage in recipe.stages:  # as the first command of the page runs it
        assert [stage.accumulate, stage.batch_size] == [int(first[3]), int(first[4])]
    assert recipe.train.average == 0 and not recipe.train.muon and data.workers == 1
