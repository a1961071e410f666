"""OpenVINO GenAI as a worker of `lib/workers.py`.

python bench/peers/openvino_text.py FOLDER PA|SDPA THREADS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from bench.lib.workers import TextEngine, serve_text


class OpenVINO(TextEngine):
    """A pipeline writes a whole answer in one call, so that steps are timed by its own clock."""

    def __init__(self, folder: str, attention: str, threads: int) -> None:
        self._pipeline = openvino_genai.LLMPipeline(
            folder,
            "CPU",
            ATTENTION_BACKEND=attention,
            INFERENCE_NUM_THREADS=threads,
            PERFORMANCE_HINT="LATENCY",
        )
        super().__init__(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])

    def read(self, ids: list[int]) -> int:
        """An answer of one token."""
        return int(self._write(ids, 1).tokens[0][0])

    def decode_ms(self, tokens: int, context: int) -> float:
        """Of an answer, the time after its first token."""
        metrics = self._write(self.new_prompt(context), tokens + 1).perf_metrics
        if metrics.get_num_generated_tokens() != tokens + 1:
            raise ValueError(f"{metrics.get_num_generated_tokens()} tokens, not {tokens + 1}")
        return float(metrics.get_tpot().mean) * tokens

    def continuation(self, ids: list[int], tokens: int) -> list[int]:
        """One answer."""
        return [int(token) for token in self._write(ids, tokens).tokens[0]]

    def _write(self, ids: list[int], tokens: int) -> openvino_genai.EncodedResults:
        prompt = openvino.Tensor(np.array([ids], np.int64))
        options = {"max_new_tokens": tokens, "do_sample": False, "ignore_eos": True}
        return self._pipeline.generate(prompt, **options)


def main() -> None:
    folder, attention, threads = sys.argv[1:]
    serve_text(OpenVINO(folder, attention, int(threads)))


if __name__ == "__main__":
    main()
