"""Our runtime's decoder as a worker of `lib/workers.py`: a process that imports no torch.

python bench/peers/edge_mm_decoder.py GRAPH(JSON) THREADS, then requests on standard input.
"""

from __future__ import annotations

import sys

import msgspec

from bench.lib.graph import Graph, opened
from bench.lib.workers import TextEngine, serve_text
from edge_mm_runtime.decoder import Decoder


class Ours(TextEngine):
    """The runtime's decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder.geometry.vocab_size)
        self._decoder = decoder

    def read(self, ids: list[int]) -> int:
        """The cache's prefix of a new prompt is never that of the last: all of it is computed."""
        return int(self._decoder.prefill(ids).logits.argmax())

    def step(self, token: int) -> int:
        """One token more."""
        return int(self._decoder.extend([token]).logits.argmax())


def main() -> None:
    graph = msgspec.json.decode(sys.argv[1], type=Graph)
    with opened(graph, int(sys.argv[2])) as decoder:
        serve_text(Ours(decoder))


if __name__ == "__main__":
    main()
