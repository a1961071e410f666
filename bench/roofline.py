"""What a board allows and what to expect of it: the tables of docs/performance.md.

python bench/roofline.py

Nothing is measured here. The limits are arithmetic (lib/limits.py); what to expect adds what others
measured on these boards (lib/boards.py): the share of the bandwidth that their engines reach, the
share of the peak, and what each matrix product costs, however small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np

from bench.lib import boards
from bench.lib.boards import BOARDS, CHECKS, ORIN_NANO_SUPER, PUBLISHED, Published
from bench.lib.limits import (
    Board,
    Decoder,
    Math,
    Model,
    Precision,
    Vision,
    cache_bytes,
    limit_s,
    memory_bytes,
    pass_bytes,
    pass_operations,
    weight_bytes,
)
from bench.lib.models import AWQ, QWEN, SMOLVLM, nano
from edge_mm.model.config import ModelConfig
from edge_mm_runtime.engines.memory import BASE, PROFILES, Estimate

NANO = Path(__file__).resolve().parents[1] / "models" / "nano" / "config.json"


class Reach(NamedTuple):
    """How near engines come to the limits: shares, two of them by family of boards."""

    bandwidth: float
    prefill: dict[str, float]
    transformer: dict[str, float]
    convolutions: float
    product_s: float  # added by each matrix product or convolution, however small


_FULL = {"Orin": 1.0, "Thor": 1.0}
LIMIT = Reach(1.0, _FULL, _FULL, 1.0, 0.0)


class Times(NamedTuple):
    """Seconds: for the picture, to read the prompt, for a token, to read a second question."""

    vision: float
    prefill: float
    token: float
    question: float


def vision_s(vision: Vision, board: Board, reach: Reach, math: Math = "fp16") -> float:
    """A picture, stored and computed in 16 bits unless said otherwise."""
    kinds = {"transformer": reach.transformer[board.family], "convolutions": reach.convolutions}
    reached = _reached(board, reach.bandwidth, kinds[vision.kind])
    busy = limit_s(2 * vision.weights, vision.operations, reached, math)
    return busy + vision.products * reach.product_s


def pass_s(
    decoder: Decoder, precision: Precision, board: Board, reach: Reach, tokens: int, past: int
) -> float:
    """One pass over new tokens behind those in the cache."""
    reached = _reached(board, reach.bandwidth, reach.prefill[board.family])
    read = pass_bytes(decoder, precision, past)
    busy = limit_s(read, pass_operations(decoder, tokens, past), reached, precision.math)
    return busy + decoder.products * reach.product_s


def times(model: Model, board: Board, reach: Reach, vision_math: Math = "fp16") -> Times:
    """All of a first question about a picture, and of a second one about the same."""

    def read(tokens: int, past: int) -> float:
        return pass_s(model.decoder, model.precision, board, reach, tokens, past)

    return Times(
        vision_s(model.vision, board, reach, vision_math),
        read(model.prompt, 0),
        read(1, model.prompt),
        read(model.question, model.prompt),
    )


def _reached(board: Board, bandwidth: float, peak: float) -> Board:
    return msgspec.structs.replace(
        board,
        bandwidth_gb_s=bandwidth * board.bandwidth_gb_s,
        peak={math: peak * tops for math, tops in board.peak.items()},
    )


def fit_decode(rows: Sequence[Published]) -> tuple[float, float]:
    """(share of the bandwidth, seconds of a matrix product) by least squares on relative errors.

    A token takes bytes / (share * bandwidth) + products * seconds. The cache is left out: how long
    the answers were is not published.
    """
    terms = [
        (
            row.tokens_per_s * pass_s(row.decoder, AWQ, row.board, LIMIT, 1, 0),
            row.tokens_per_s * row.decoder.products,
        )
        for row in rows
    ]
    (slowness, product_s), *_ = np.linalg.lstsq(np.array(terms), np.ones(len(terms)), rcond=None)
    return 1 / float(slowness), float(product_s)


def fit(rows: Sequence[Published] = PUBLISHED) -> Reach:
    """Shares of the peak are medians of a family's rows, less what their products cost anyway."""
    bandwidth, product_s = fit_decode(rows)
    prefill: dict[str, list[float]] = {}
    transformer: dict[str, list[float]] = {}
    for row in rows:
        family = row.board.family
        if row.prefill is not None:
            tokens, took_s = row.prefill
            least_s = pass_s(row.decoder, AWQ, row.board, LIMIT, tokens, 0)
            share = least_s / (took_s - row.decoder.products * product_s)
            prefill.setdefault(family, []).append(share)
        if row.vision is not None:
            vision, took_s = row.vision
            share = vision_s(vision, row.board, LIMIT) / (took_s - vision.products * product_s)
            transformer.setdefault(family, []).append(share)
    yolo_s = boards.YOLO_S - boards.YOLO_CONVOLUTIONS * product_s
    return Reach(
        bandwidth,
        {family: median(shares) for family, shares in prefill.items()},
        {family: median(shares) for family, shares in transformer.items()},
        boards.YOLO_OPERATIONS / (ORIN_NANO_SUPER.peak["fp16"] * 1e12) / yolo_s,
        product_s,
    )


def show(value: float) -> str:
    """Two digits or more."""
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def table(header: str, rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    rule = "|---" * (header.count("|") + 1) + "|"
    return "\n".join([f"| {header} |", rule, *(f"| {' | '.join(row)} |" for row in rows)])


def reach_table(reach: Reach) -> str:
    families = ("Orin", "Thor")
    product = f"{1e6 * reach.product_s:.0f} us"
    by_family = (
        ("memory bandwidth, a token", dict.fromkeys(families, reach.bandwidth)),
        ("fp16 peak, prompt", reach.prefill),
        ("fp16 peak, picture by a transformer", reach.transformer),
        ("fp16 peak, picture by convolutions", dict.fromkeys(families, reach.convolutions)),
    )
    rows = [(what, *(f"{of[family]:.2f}" for family in families)) for what, of in by_family]
    return table("share of | Orin | Thor", [*rows, ("and for each product", product, product)])


def boards_table() -> str:
    return table(
        "board | memory, GB | GB/s | advertised | fp16, dense | int8, dense",
        (
            (
                board.name,
                str(board.memory_gb),
                f"{board.bandwidth_gb_s:g}",
                board.advertised,
                f"{board.peak['fp16']:g}",
                f"{board.peak['int8']:g}",
            )
            for board in BOARDS
        ),
    )


def models_table(models: Sequence[Model]) -> str:
    def row(model: Model) -> tuple[str, ...]:
        decoder, precision = model.decoder, model.precision
        memory = memory_bytes(model.vision, decoder, precision, model.context, BASE)
        stored = weight_bytes(decoder, precision) + decoder.head_weights * precision.table
        cache = cache_bytes(decoder, precision, model.context)
        building = Estimate(int(stored), PROFILES["decoder"], int(cache), activations=0).total
        return (
            model.name,
            show(model.weights / 1e6),
            precision.name,
            model.picture,
            f"{model.image_tokens} + {model.text}",
            show(model.vision.operations / 1e9),
            show(pass_operations(decoder, model.prompt) / 1e9),
            show(pass_bytes(decoder, precision, model.prompt) / 1e6),
            show(cache_bytes(decoder, precision, 1) / 1e3),
            f"{memory / 1e9:.1f}",
            f"{building / 1e9:.1f}",
        )

    return table(
        "model | weights, M | decoder | picture | prompt | picture, GOP | prompt, GOP "
        "| a token reads, MB | cache, kB a token | to run, GB | to build, GB",
        map(row, models),
    )


def published_table() -> str:
    """What others measured, beside the limit: measured / limit, share."""

    def beside(value: float, limit: float, share: float) -> str:
        return f"{show(value)} / {show(limit)}, {100 * share:.0f} %"

    def row(published: Published) -> tuple[str, ...]:
        board, decoder, rate = published.board, published.decoder, published.tokens_per_s
        limit = 1 / pass_s(decoder, AWQ, board, LIMIT, 1, 0)
        cells = [board.name, published.model, beside(rate, limit, rate / limit), "", ""]
        if published.prefill is not None:
            tokens, took_s = published.prefill
            least_s = pass_s(decoder, AWQ, board, LIMIT, tokens, 0)
            cells[3] = beside(1e3 * took_s, 1e3 * least_s, least_s / took_s)
        if published.vision is not None:
            vision, took_s = published.vision
            least_s = vision_s(vision, board, LIMIT)
            cells[4] = beside(1e3 * took_s, 1e3 * least_s, least_s / took_s)
        return tuple(cells)

    return table("board | model | tokens/s | prefill, ms | picture, ms", map(row, PUBLISHED))


def checks_table(reach: Reach) -> str:
    """The prediction for rows that had no part in `reach`: predicted / measured."""

    def pair(ours: float, theirs: float) -> str:
        return f"{show(ours)} / {show(theirs)}"

    def row(check: Published) -> tuple[str, ...]:
        board, decoder, precision = check.board, check.decoder, check.precision
        rate = 1 / pass_s(decoder, precision, board, reach, 1, 0)
        cells = [board.name, check.model, pair(rate, check.tokens_per_s), "", "", ""]
        if check.prefill is not None:
            tokens, took_s = check.prefill
            cells[3] = pair(1e3 * pass_s(decoder, precision, board, reach, tokens, 0), 1e3 * took_s)
        if check.vision is not None:
            vision, took_s = check.vision
            cells[4] = pair(1e3 * vision_s(vision, board, reach), 1e3 * took_s)
            if check.memory is not None:
                memory = memory_bytes(vision, decoder, precision, check.context, BASE)
                cells[5] = pair(memory / 1e9, check.memory / 1e9)
        return tuple(cells)

    return table(
        "board | model | tokens/s | prefill, ms | picture, ms | memory, GB", map(row, CHECKS)
    )


def prediction_table(model: Model, reach: Reach) -> str:
    """By board: limit / expected."""
    columns: tuple[Callable[[Times], float], ...] = (
        lambda found: 1e3 * found.vision,
        lambda found: 1e3 * (found.vision + found.prefill),
        lambda found: 1 / found.token,
        lambda found: 1e3 * found.question,
    )

    def row(board: Board) -> tuple[str, ...]:
        least, likely = times(model, board, LIMIT), times(model, board, reach)
        return board.name, *(f"{show(of(least))} / **{show(of(likely))}**" for of in columns)

    return table(
        "board | picture, ms | frame to first token, ms | tokens/s | second question, ms",
        map(row, BOARDS),
    )


def tables() -> list[str]:
    """All of the page's, in its order."""
    config = msgspec.json.decode(NANO.read_bytes(), type=ModelConfig)
    models, reach = (nano(config), SMOLVLM, QWEN), fit()
    predictions = [prediction_table(model, reach) for model in models]
    return [
        *predictions,
        models_table(models),
        boards_table(),
        published_table(),
        reach_table(reach),
        checks_table(reach),
    ]


def main() -> None:
    """Print every table."""
    print("\n\n".join(tables()))


if __name__ == "__main__":
    main()
