"""Our runtime's decoder as a worker of `lib/workers.py`: a process that imports no torch.

python bench/peers/edge_mm_decoder.py GRAPH(JSON) THREADS, then requests on standard input.
"""

from __future__ import annotations

import sys

import msgspec
import numpy as np

from bench.lib.graph import Graph, opened
from bench.lib.workers import serve
from edge_mm_runtime.decoder import Decoder


class Texts:
    """Random prompts; the cache's prefix of one is never that of the next."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._rng = np.random.default_rng(0)
        self._count = 0

    def prefill(self, tokens: int) -> np.ndarray:
        """Read a new prompt of so many tokens; its logits [V]."""
        self._count += 1
        ids = self._rng.integers(0, self._decoder.geometry.vocab_size, tokens)
        ids[0] = self._count  # another first id than the last prompt's: nothing is reused
        return self._decoder.prefill(ids.tolist()).logits

    def decode(self, logits: np.ndarray, tokens: int) -> None:
        """Continue greedily, one token at a time."""
        for _ in range(tokens):
            logits = self._decoder.extend([int(logits.argmax())]).logits


def main() -> None:
    graph = msgspec.json.decode(sys.argv[1], type=Graph)
    with opened(graph, int(sys.argv[2])) as decoder:
        texts = Texts(decoder)
        serve(texts.prefill, texts.decode)


if __name__ == "__main__":
    main()
