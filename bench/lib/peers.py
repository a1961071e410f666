"""The engines that we are compared with, on the same weights of SmolLM2-135M, as workers.

Each runs in an environment of its own (`lib/environments.py`) and in its best known settings. What
its model is made of is data/bench/smollm2; what it is made into is kept under data/bench/peers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.lib.environments import environment
from bench.lib.making import command, made, on, run
from bench.lib.smollm2 import fetch_model

FOLDER = Path("data/bench/peers")
CONTEXT = 1024  # tokens that a cache has room for, as in our own graphs
THREADS = 2
GENAI_BLOCK = 32  # its default
LARGE_BLOCKS = ", blocks of 128"
OPENVINO_GROUP = 64  # the greatest power of two that divides both widths, 576 and 1536
OPENVINO_ATTENTION = "PA"  # its default; SDPA is the other


class Peer(NamedTuple):
    """An engine with weights of one precision.

    environment  where it runs; its size is the engine's installed size
    script       its worker in bench/peers, called with the model, `argument` and threads
    model        makes what is missing and gives the model
    """

    name: str
    engine: str
    precision: str
    environment: str
    script: str
    model: Callable[[], Path]
    argument: str

    def prepare(self) -> list[str]:
        """Install and convert what is missing; the command that starts the worker.

        UsageError when an installation, a download or a conversion fails.
        """
        python = environment(self.environment)
        model = self.model().absolute()
        return command(python, self.script, model, self.argument, THREADS)


def genai_model(precision: str, block: int = GENAI_BLOCK, folder: Path = FOLDER) -> Path:
    """A folder as onnxruntime-genai's builder makes it: logits of the last position alone."""

    def build(partial: Path) -> None:
        words = [*on(environment("genai-builder")), "-m", "onnxruntime_genai.models.builder"]
        words += ["-i", str(fetch_model()), "-o", str(partial), "-c", str(partial / "cache")]
        options = ["prune_lm_head=true", f"block_size={block}"]
        run([*words, "-e", "cpu", "-p", precision, "--extra_options", *options])

    named = f"genai-{precision}" + (f"-{block}" if block != GENAI_BLOCK else "")
    return made(folder / named, build)


def openvino_model(precision: str, folder: Path = FOLDER) -> Path:
    """A folder as optimum-intel exports it, weights compressed by NNCF without data."""

    def export(partial: Path) -> None:
        words = [*on(environment("openvino-exporter")), "-m", "optimum.commands.optimum_cli"]
        words += ["export", "openvino", "--model", str(fetch_model())]
        words += ["--task", "text-generation-with-past", "--weight-format", precision]
        if precision == "int4":
            words += ["--sym", "--ratio", "1.0", "--group-size", str(OPENVINO_GROUP)]
        run([*words, str(partial)])

    return made(folder / f"openvino-{precision}", export)


def llama_model(kind: str, folder: Path = FOLDER) -> Path:
    """A GGUF file, quantised by llama.cpp itself from the weights in bfloat16."""

    def quantise(partial: Path) -> None:
        from bench.lib.gguf_weights import write_gguf

        source = made(folder / "smollm2-BF16.gguf", write_gguf)
        run(command(environment("llama"), "llama_quantise.py", source, partial, kind))

    return made(folder / f"smollm2-{kind}.gguf", quantise)


def _transformers(precision: str, dtype: str) -> Peer:
    name = f"transformers {precision}"
    script = "transformers_text.py"
    return Peer(name, "transformers", precision, "transformers", script, fetch_model, dtype)


def _genai(precision: str, block: int = GENAI_BLOCK) -> Peer:
    return Peer(
        f"onnxruntime-genai {precision}" + (LARGE_BLOCKS if block != GENAI_BLOCK else ""),
        "onnxruntime-genai",
        precision,
        "genai",
        "genai_text.py",
        lambda: genai_model(precision, block),
        str(CONTEXT),
    )


def _openvino(precision: str) -> Peer:
    return Peer(
        f"OpenVINO GenAI {precision}",
        "OpenVINO GenAI",
        precision,
        "openvino",
        "openvino_text.py",
        lambda: openvino_model(precision),
        OPENVINO_ATTENTION,
    )


def _llama(kind: str) -> Peer:
    return Peer(
        f"llama.cpp {kind}",
        "llama.cpp",
        kind.lower(),
        "llama",
        "llama_text.py",
        lambda: llama_model(kind),
        str(CONTEXT),
    )


PEERS: tuple[Peer, ...] = (
    _transformers("fp32", "float32"),
    _transformers("bf16", "bfloat16"),
    _genai("fp32"),
    _genai("int8"),
    _genai("int4"),
    _genai("int8", 128),
    _genai("int4", 128),
    _openvino("int8"),
    _openvino("int4"),
    _llama("Q8_0"),
    _llama("Q4_0"),
)
