"""Part `text`: SmolLM2-135M-Instruct, real weights, on every engine that has the text peers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from bench.lib.graph import Graph
from bench.lib.limits import Precision, pass_bytes, pass_operations
from bench.lib.making import command
from bench.lib.models import SMOLLM2
from bench.lib.results import Load, Work
from bench.lib.run import OURS, Engine, Part
from bench.lib.smollm2 import chat, fetch_model
from bench.lib.workers import Worker

PROMPTS, DECODED, DECODED_AT = (256, 512), 128, 300
CONTEXT = 1024
TOKENS, EVERY = 64, 2  # of each continuation; the places in it that are asked for one token
TIMED = ("fp32", "int8", "int4", "w8a8", "w8a8-tensor")
GRAPHS = Path("data/bench/smollm2-graphs")
FITTED = GRAPHS / "gptq-cpu.safetensors"


def part(threads: int) -> Part:
    """Downloads the model on the first run."""
    from bench.lib.peers import PEERS

    folder = fetch_model()
    peers = [Engine(peer.name, peer.engine, peer.precision, peer.prepare) for peer in PEERS]
    return Part(
        name="text",
        engines=[*ours(folder, threads), *peers],
        works=works(),
        rounds=5,
        first={"prefill": 1},
        judge=Agreement(folder),
        starts=7,
    )


def works() -> list[Work]:
    """Prefill of two lengths, and decode."""
    prefills = [Work(f"prefill {n}", {"prefill": n}, load=_prefill(n)) for n in PROMPTS]
    request = {"decode": DECODED, "context": DECODED_AT}
    name = f"decode {DECODED} at {DECODED_AT}"
    return [*prefills, Work(name, request, tokens=DECODED, load=_decode)]


def ours(folder: Path, threads: int) -> list[Engine]:
    """Our decoder in each precision that target cpu has."""
    from edge_mm_export.precision import PRECISIONS

    return [
        Engine(f"{OURS} {precision}", OURS, precision, _command(folder, precision, threads))
        for precision in TIMED
        if precision in PRECISIONS["cpu"]
    ]


def _command(folder: Path, precision: str, threads: int) -> Callable[[], list[str]]:
    def prepare() -> list[str]:
        from bench.lib.graphs import fitted_int4, write_graph

        fitted = None
        if precision == "int4":
            fitted = fitted_int4(folder, "cpu", partial(text_of, folder, threads), FITTED)
        path = GRAPHS / f"cpu-{precision}.onnx"
        graph = write_graph(folder, "cpu", precision, path, context=CONTEXT, quantised=fitted)
        return worker(graph, threads)

    return prepare


def text_of(folder: Path, threads: int) -> list[list[int]]:
    """What int4 is fitted to."""
    from bench.lib.passages import own_passages

    return own_passages(folder, GRAPHS / "cpu-fp32.onnx", context=CONTEXT, threads=threads)


def worker(graph: Graph, threads: int) -> list[str]:
    """The command of our decoder's worker."""
    return command(
        sys.executable, "edge_mm_decoder.py", msgspec.json.encode(graph).decode(), threads
    )


def _prefill(tokens: int) -> Callable[[Precision], Load]:
    return lambda stored: Load(pass_bytes(SMOLLM2, stored, 0), pass_operations(SMOLLM2, tokens))


def _decode(stored: Precision) -> Load:
    """Of all steps, at the cache's mean length."""
    past = DECODED_AT + DECODED // 2
    return Load(
        DECODED * pass_bytes(SMOLLM2, stored, past), DECODED * pass_operations(SMOLLM2, 1, past)
    )


class Agreement:
    """What transformers fp32 would say: of all prompts, greedy tokens up to the first other one,
    and choices after the same text. The choices are what graphs are compared by: one other token
    ends the count of the first, whatever would have followed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, workers: Mapping[str, Worker]) -> dict[str, tuple[str, float]]:
        """Ask every engine to continue each prompt of the exam, whole and from many places."""
        said = _references(self._folder)
        most = sum(len(expected) for _, expected in said)
        places = [
            ([*prompt, *expected[:place]], expected[place])
            for prompt, expected in said
            for place in range(0, len(expected), EVERY)
        ]
        found = {}
        for name, worker in workers.items():
            same = sum(
                leading(worker.ask({"continue": prompt, "tokens": len(expected)}), expected)
                for prompt, expected in said
            )
            chosen = sum(
                worker.ask({"continue": text, "tokens": 1}) == [token] for text, token in places
            )
            words = f"{chosen}/{len(places)} choices, {same}/{most} greedy tokens"
            found[name] = (words, float(chosen))
        return found


def leading(found: Sequence[int], expected: Sequence[int]) -> int:
    """How many ids are the same before the first other one."""
    same = 0
    for mine, theirs in zip(found, expected, strict=False):
        if mine != theirs:
            break
        same += 1
    return same


def _references(folder: Path) -> list[tuple[list[int], list[int]]]:
    """(prompt, greedy continuation) of each prompt of the exam, by transformers fp32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    from bench.lib.agreement import EXAM, continue_greedily

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [tokenizer.encode(chat(text)).ids for text in EXAM]
    return [(ids, list(continue_greedily(lm, ids, TOKENS).ids)) for ids in prompts]
