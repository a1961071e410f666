"""A decoder graph on disk as the benches pass it around, opened by the runtime alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from bench.lib.workers import FIRST
from edge_mm_runtime.bundle import DecoderGeometry
from edge_mm_runtime.decoder import Decoder, open_decoder


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A decoder graph, and what its speed is limited by."""

    path: str
    target: str
    precision: str
    geometry: DecoderGeometry
    weight_bytes: int  # that every new token reads: all but the token table
    cache_bytes: int  # of one token in the cache, all layers
    operations: int  # multiplications and additions for one prompt token in the layers' linears

    def token_bytes(self, context: float) -> float:
        """What a new token must read when the cache holds `context` tokens."""
        return self.weight_bytes + self.cache_bytes * context


@contextmanager
def opened(graph: Graph, threads: int) -> Iterator[Decoder]:
    """The runtime's decoder of a graph, for text alone."""
    with open_decoder(Path(graph.path), graph.geometry, threads, graph.target) as runner:
        decoder = Decoder(runner, graph.geometry, graph.target)
        # The graph gathers a picture's row for every id and then drops it: there must be one.
        decoder.set_image(np.zeros((1, graph.geometry.hidden_size), np.float32))
        decoder.begin([FIRST])
        yield decoder
