"""The decoder and its key/value cache: appends ids, gives back the logits of the last one.

Knows ids only. An id >= vocab_size stands for a row of `image_embeds` (id - vocab_size); a decoder
that looks at the picture by cross-attention has no such ids and reads `image_embeds` whole. The
cache remembers which ids it holds, so that a prompt which begins like the last one prefills only
what is new: a second question about the same frame costs its own words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.bundle import DecoderGeometry
from edge_mm_runtime.errors import BundleError
from edge_mm_runtime.rope import rope_positions
from edge_mm_runtime.runner import Arrays, OnnxRunner, Provider, Runner


def _lengths(start: int, count: int) -> Arrays:
    """GroupQueryAttention: how many ids the cache holds after this pass."""
    total = start + count
    return {
        "seqlens_k": np.array([total - 1], np.int32),
        "total_sequence_length": np.array([total], np.int32),
    }


def _places(start: int, count: int) -> Arrays:
    """Standard operators: the place of each new id; the graph makes its mask of them."""
    return {"position_ids": np.arange(start, start + count, dtype=np.int64)[None]}


def _places_and_first(start: int, count: int) -> Arrays:
    """TensorScatter is told the first place apart."""
    return _places(start, count) | {"write_indices": np.array([start], np.int64)}


_PLACES: dict[str, Callable[[int, int], Arrays]] = {
    "cpu": _lengths,
    "cuda": _lengths,
    "tensorrt": _places_and_first,
    "tensorrt-10.3": _places,
}
"""How the graphs of each target are told which places of the cache `count` new ids take."""

PLAIN_ATTENTION = 1024
"""Context up to which a pass of several ids keeps all scores of a layer in memory.

ONNX Runtime 1.31 goes through them in tiles otherwise, which takes twice as long here: 256 ids, 9
heads of 64, one thread: 2.6 instead of 1.3 ms a layer; 512 ids, 16 heads of 128, two threads: 12.2
instead of 8.6. The scores are heads x ids x context floats, at most 64 MB for 16 heads.
"""
WORDS = 256
"""Ids of a long text that are read in one pass: the scores of more would only take memory."""

_NO_TILES = "ORT_GQA_DISABLE_FLASH_ATTENTION"


class Position(NamedTuple):
    """What the decoder says after the last id."""

    logits: npt.NDArray[np.float32]  # [V]
    region_query: npt.NDArray[np.float32] | None  # [K], with a region head only


class Decoder:
    """A runner of a target's decoder graph, and what its cache holds."""

    def __init__(self, runner: Runner, geometry: DecoderGeometry, target: str = "cpu") -> None:
        self.geometry = geometry
        self._runner = runner
        self._target = target
        self._ids: list[int] = []
        self._first = 0  # how many of them every prompt begins with
        self.prefilled = 0
        """How many ids the last `prefill` computed."""
        self._image_embeds = _rows(np.zeros((0, geometry.image_row), np.float32))

    @property
    def room(self) -> int:
        """How many more ids the cache takes."""
        return self.geometry.context - len(self._ids)

    def begin(self, ids: Sequence[int]) -> None:
        """Read what every prompt begins with: it stays, whatever picture is shown.

        Where a graph has one scale for all inputs of a pass, this should be the first id alone: in
        most pretrained models its activations are far larger than those of all other ids (arXiv
        2402.17762), which such a scale would round away.
        """
        self._ids.clear()
        self.extend(ids)
        self._first = len(ids)

    def set_image(self, image_embeds: npt.NDArray[np.float32]) -> None:
        """Look at another picture, image_embeds [T, D]: the cache forgets from its place on.

        Where no id stands for the picture, every one may have looked at it: all are forgotten but
        those of `begin`. A picture of no rows is none; only words can follow.
        """
        self._image_embeds = _rows(image_embeds)
        vocab_size = self.geometry.vocab_size
        places = (index for index, token in enumerate(self._ids) if token >= vocab_size)
        del self._ids[next(places, self._first) :]

    def prefill(self, prompt: Sequence[int]) -> Position:
        """Start over with a prompt; the part that the cache holds already is not computed again.

        A picture is never cut in two: where its rows see each other, they need one pass. Words
        alone are read `WORDS` at a time.
        """
        shared = 0
        most = min(len(self._ids), len(prompt) - 1)  # the last id is needed for its logits
        if not self.geometry.prefix_reuse:
            most = 0
        while shared < most and self._ids[shared] == prompt[shared]:
            shared += 1
        while shared and prompt[shared] > self.geometry.vocab_size:
            shared -= 1
        del self._ids[shared:]
        self._first = min(self._first, shared)
        self.prefilled = len(prompt) - shared
        if self.geometry.prefix_reuse and max(prompt) < self.geometry.vocab_size:
            while len(prompt) - shared > WORDS:
                self.extend(prompt[shared : shared + WORDS])
                shared += WORDS
        return self.extend(prompt[shared:])

    def extend(self, ids: Sequence[int]) -> Position:
        """Append ids in one pass. The caller keeps to `room`."""
        if not 0 < len(ids) <= self.room:
            raise ValueError(f"cannot append {len(ids)} ids where {self.room} fit")
        start, geometry = len(self._ids), self.geometry
        inputs = decoder_inputs(self._target, start, ids, self._image_embeds)
        if geometry.rope_grid is not None:
            every = rope_positions([*self._ids, *ids], geometry.vocab_size, *geometry.rope_grid)
            inputs["rope_positions"] = every[:, start:]
        outputs = self._runner.run(inputs)
        self._ids += ids
        query = outputs.get("region_query")
        return Position(outputs["logits"][0], None if query is None else query[0])


def _rows(image_embeds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The rows [T, D], or one of zeros where there are none: no graph can pick a row of nothing."""
    if len(image_embeds):
        return image_embeds
    return np.zeros((1, image_embeds.shape[1]), np.float32)


def decoder_inputs(
    target: str, start: int, ids: Sequence[int], image_embeds: npt.NDArray[np.float32]
) -> Arrays:
    """The inputs of a pass that appends `ids` to the `start` that the cache of a graph holds.

    A graph whose geometry has a rope_grid also takes `rope_positions`, see rope.py.
    """
    return {
        "input_ids": np.array([ids], np.int64),
        "image_embeds": image_embeds,
        **_PLACES[target](start, len(ids)),
    }


def open_decoder(
    path: Path,
    geometry: DecoderGeometry,
    threads: int | None,
    target: str = "cpu",
    provider: Provider = "cpu",
) -> OnnxRunner:
    """A target's decoder graph on ONNX Runtime, one shared buffer for each cache tensor.

    For targets other than cpu this is how their numbers are checked, not how they are run.
    """
    if target not in _PLACES:
        raise BundleError(f"{path}: unknown target {target!r}, known: {', '.join(_PLACES)}")
    shape = (1, geometry.kv_heads, geometry.context, geometry.head_dim)
    state = {
        f"past_key_values.{layer}.{part}": (f"present.{layer}.{part}", shape)
        for layer in range(geometry.layers)
        for part in ("key", "value")
    }
    with _plain_attention(geometry.context <= PLAIN_ATTENTION):
        runner = OnnxRunner(path, threads, state=state, provider=provider)
    expected = set(decoder_inputs(target, 0, [0], np.zeros((0, 0), np.float32)))
    if geometry.rope_grid is not None:
        expected.add("rope_positions")
    if runner.inputs.keys() != expected or "logits" not in runner.outputs:
        raise BundleError(
            f"{path} takes {sorted(runner.inputs)} and gives {sorted(runner.outputs)}, "
            f"a decoder takes {sorted(expected)} and gives logits: export it again"
        )
    return runner


@contextmanager
def _plain_attention(wanted: bool) -> Iterator[None]:
    """For graphs that are opened in it; what the environment says already is left as it is."""
    if not wanted or _NO_TILES in os.environ:
        yield
        return
    os.environ[_NO_TILES] = "1"  # each kernel reads it when it is made
    try:
        yield
    finally:
        os.environ.pop(_NO_TILES, None)
