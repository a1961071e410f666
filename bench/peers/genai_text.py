"""onnxruntime-genai as a worker of `lib/workers.py`.

python bench/peers/genai_text.py FOLDER CONTEXT THREADS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime_genai

from bench.lib.workers import TextEngine, serve_text


class GenAI(TextEngine):
    """A generator a text; we choose the tokens, as the generator itself stops at an end of text."""

    def __init__(self, folder: str, context: int, threads: int) -> None:
        config = onnxruntime_genai.Config(folder)
        options = {"session_options": {"intra_op_num_threads": threads}}  # its default is one
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = onnxruntime_genai.Model(config)
        self._parameters = onnxruntime_genai.GeneratorParams(self._model)
        self._parameters.set_search_options(max_length=context, do_sample=False)
        written = json.loads((Path(folder) / "genai_config.json").read_text())
        super().__init__(written["model"]["vocab_size"])

    def read(self, ids: list[int]) -> int:
        """With a new generator, as a KV cache belongs to one."""
        self._generator = onnxruntime_genai.Generator(self._model, self._parameters)
        return self._next(ids)

    def step(self, token: int) -> int:
        """One token more."""
        return self._next([token])

    def _next(self, ids: list[int]) -> int:
        self._generator.append_tokens(ids)
        return int(self._generator.get_logits()[0, -1].argmax())


def main() -> None:
    folder, context, threads = sys.argv[1:]
    serve_text(GenAI(folder, int(context), int(threads)))


if __name__ == "__main__":
    main()
