"""llama.cpp through llama-cpp-python as a worker of `lib/workers.py`, with flash attention.

python bench/peers/llama_text.py GGUF CONTEXT THREADS
"""

from __future__ import annotations

import sys

import llama_cpp
import numpy as np

from bench.lib.workers import TextEngine, serve_text


class LlamaCpp(TextEngine):
    """One sequence; the logits of the last position are read where they lie."""

    def __init__(self, path: str, context: int, threads: int) -> None:
        self._llama = llama_cpp.Llama(
            path,
            n_ctx=context,
            n_batch=context,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            verbose=False,
        )
        super().__init__(self._llama.n_vocab())

    def read(self, ids: list[int]) -> int:
        """Its cache is cut where the new text begins."""
        self._llama.reset()
        return self._next(ids)

    def step(self, token: int) -> int:
        """One token more."""
        return self._next([token])

    def _next(self, ids: list[int]) -> int:
        self._llama.eval(ids)
        pointer = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return int(np.ctypeslib.as_array(pointer, (self._vocab_size,)).argmax())


def main() -> None:
    path, context, threads = sys.argv[1:]
    serve_text(LlamaCpp(path, int(context), int(threads)))


if __name__ == "__main__":
    main()
