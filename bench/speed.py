"""Us and every peer on the same weights, in alternation, in one run: time, roofline, accuracy.

python bench/speed.py [--only PART+PART] [--peers NAME+NAME] [--rounds N] [--json FILE]
                      [--plot FILE.svg]

text   SmolLM2-135M, real weights: prefill, decode, cold start, memory
tower  SigLIP-B/16 at 224, random weights
llava  that tower, an MLP projector and SmolLM2-135M: a picture and 40 tokens, decode
nano   the shipped model: frame to grounded answer, conversation, a minute of 30 frames a second
size   what an installation takes on disk

Each engine is a process of its own in an environment of its own (data/bench/environments, made on
the first run: that one takes an hour, most of it for llama.cpp, which pip compiles). Prints
Markdown: medians and half of the range between the quartiles, ratios to the best peer with 95 %
intervals over the rounds, the share of what the machine can do, and the bars that were set. Leave
the machine alone while it runs; what others used of it is measured and told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.lib.bars import bars_table
from bench.lib.machine import busy_share, processor, product_rate, read_bandwidth
from bench.lib.parts import llava, nano, size, text, tower
from bench.lib.plot import Point, draw
from bench.lib.results import Machine, PartResult, Row, Work
from bench.lib.run import OURS, Part, run_part
from bench.lib.table import part_tables
from bench.lib.turns import BUSY

THREADS = 2
MEASURED: dict[str, Callable[[int], Part]] = {
    "text": text.part,
    "tower": tower.part,
    "llava": llava.part,
    "nano": nano.part,
}
PARTS = (*MEASURED, "size")


def main() -> None:
    """Run the parts that are asked for, and print each when it is done."""
    arguments = parse_arguments(sys.argv[1:])
    machine = measure_machine(THREADS)
    print(f"# Speed on {machine.processor}\n\n{machine_line(machine)}\n", flush=True)
    results: dict[str, PartResult] = {}
    points: list[Point] = []
    for name in arguments.only or PARTS:
        if name == "size":
            result, works = size.measure(say), [size.WORK]
        else:
            part = with_peers(MEASURED[name](THREADS), arguments.peers)
            result, works = run_part(part, arguments.rounds, say), list(part.works)
        results[name] = result
        points += points_of(result.rows, works)
        print(part_tables(result, works, machine) + "\n", flush=True)
    print(f"## Bars\n\n{bars_table(results)}")
    if arguments.json:
        kept = {"machine": machine, "parts": list(results.values())}
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1))
    if arguments.plot and points:
        arguments.plot.write_text(draw(points, machine), encoding="utf-8")


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """`only` and `peers` as tuples; empty: all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", type=_names, default=(), metavar="PART", help="+".join(PARTS))
    parser.add_argument(
        "--peers",
        type=_names,
        default=(),
        metavar="NAME+NAME",
        help="engines beside ours, by a word of their names: transformers, openvino, llama.cpp, "
        "onnxruntime-genai, onnxruntime, torch; none: ours alone",
    )
    parser.add_argument("--rounds", type=int, help="of every part (default: the part's own)")
    parser.add_argument("--json", type=Path, help="write all figures there as well")
    parser.add_argument("--plot", type=Path, help="write the roofline there, as SVG")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.only) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}: choose of {', '.join(PARTS)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def with_peers(part: Part, names: Sequence[str]) -> Part:
    """The part with the named engines and ours; all, where none is named."""
    if not names:
        return part
    wanted = {OURS, *(name.lower() for name in names)}
    kept = [item for item in part.engines if wanted & set(item.engine.lower().split())]
    return part._replace(engines=kept)


def measure_machine(threads: int) -> Machine:
    """Before anything of ours runs."""
    say("measuring the machine")
    before = busy_share()
    return Machine(
        processor=processor(),
        threads=threads,
        read_bytes_s=read_bandwidth(threads),
        fp32_operations_s=product_rate(threads, integers=False),
        int8_operations_s=product_rate(threads, integers=True),
        others=max(before, busy_share()),
    )


def machine_line(machine: Machine) -> str:
    """The limits, in words."""
    spoiled = (
        f" **Others used {100 * machine.others:.0f} % of the cores while that was measured.**"
        if machine.others > BUSY
        else ""
    )
    return (
        f"{machine.threads} threads: reads {machine.read_bytes_s / 1e9:.1f} GB/s, products in fp32 "
        f"{machine.fp32_operations_s / 1e9:.0f} GOP/s, of 8 bits "
        f"{machine.int8_operations_s / 1e9:.0f} GOP/s. `share of limit`: of the longer of what "
        "must be read at that bandwidth and what must be computed at the rate of 8-bit products."
        f"{spoiled}"
    )


def points_of(rows: Sequence[Row], works: Sequence[Work]) -> list[Point]:
    """What has a place under the roofline."""
    return [
        Point(row.engine, work.name, row.ours, load, row.median(work.name) / 1e3)
        for row in rows
        for work in works
        if work.name in row.figures and (load := row.load(work)) is not None
    ]


def say(line: str) -> None:
    """Progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split("+"))


if __name__ == "__main__":
    main()
