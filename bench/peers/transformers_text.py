"""Hugging Face transformers as a worker of `lib/workers.py`.

python bench/peers/transformers_text.py FOLDER float32|bfloat16 THREADS
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM

from bench.lib.workers import TextEngine, serve_text


class Transformers(TextEngine):
    """A causal LM with its own cache; logits of the last position alone."""

    def __init__(self, folder: str, dtype: str) -> None:
        self._lm = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        super().__init__(self._lm.config.vocab_size)

    def read(self, ids: list[int]) -> int:
        """With a new cache."""
        self._cache = None
        return self._next(ids)

    def step(self, token: int) -> int:
        """One token more."""
        return self._next([token])

    def _next(self, ids: list[int]) -> int:
        with torch.inference_mode():
            out = self._lm(
                input_ids=torch.tensor([ids]),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._cache = out.past_key_values
        return int(out.logits[0, -1].argmax())


def main() -> None:
    folder, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    serve_text(Transformers(folder, dtype))


if __name__ == "__main__":
    main()
