"""Training samples from shards: packed as those of folders are, in the order of the streams.

A process has one stream for each of its DataLoader workers. Workers read ahead, so where a run
stands is not where its streams are: each sample carries the place of its stream behind it, and a
run takes note of the places of those samples that it has trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from edge_mm.data.samples import Batch, SampleMaker, collate
from edge_mm.data.shards import Sample, ShardStream
from edge_mm_runtime.errors import ImageError, UsageError

Place = tuple[int, int, int, int]  # stream, pass, entries taken in it, samples skipped in all


def are_shards(entries: Sequence[str]) -> bool:
    """Whether data.train names tar files or patterns of them; UsageError for some of both."""
    tars = [entry.endswith(".tar") for entry in entries]
    if any(tars) and not all(tars):
        raise UsageError(
            f"data.train mixes folders and shards ({', '.join(entries)}): write the folders as "
            "shards with `edge-mm data shard`"
        )
    return any(tars)


class StreamedSamples(IterableDataset):
    """Samples without end for one process of `world`: (sample, place) in each DataLoader worker.

    Batches come from the streams in turn; `streams` is the number of workers, 1 without any.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        maker: SampleMaker,
        seed: int,
        shuffle_buffer: int,
        rank: int = 0,
        world: int = 1,
        streams: int = 1,
    ):
        self.patterns, self.maker, self.seed = patterns, maker, seed
        self.shuffle_buffer, self.rank, self.world = shuffle_buffer, rank, world
        self.next = 0  # the stream of the next batch
        self.places: list[Place] = [(stream, 0, 0, 0) for stream in range(streams)]
        self.setting = self._stream(0).state()  # also: are there shards enough

    def __iter__(self) -> Iterator[tuple[dict, Place]]:
        cv2.setNumThreads(0)
        worker = get_worker_info()
        number = (self.next + (worker.id if worker else 0)) % len(self.places)
        stream = self._stream(number)
        _, stream.pass_number, stream.taken, stream.skipped = self.places[number]
        since_last = 0  # passes
        while since_last < 2:  # the first one may have been at its end
            for shown in stream:
                sample = self._sample(stream, shown)
                if sample is not None:
                    since_last = 0
                    yield sample, (number, stream.pass_number, stream.taken, stream.skipped)
            since_last += 1
        raise UsageError(
            f"no sample of {', '.join(self.patterns)} has an object that can be asked about "
            f"({stream.skipped} skipped)"
        )

    def _sample(self, stream: ShardStream, shown: Sample) -> dict | None:
        rng = random.Random(f"{self.seed}/{stream.pass_number}/{shown.scene.id}")
        try:
            ids = None
            if shown.segmentation is not None:
                ids = _decode(shown.segmentation, cv2.IMREAD_UNCHANGED)
            return self.maker.sample(
                _decode(shown.frame, cv2.IMREAD_COLOR),
                ids,
                shown.scene,
                shown.questions,
                shown.answerable,
                rng,
            )
        except ImageError as error:
            stream.skip(f"scene {shown.scene.id}", error)
            return None

    def _stream(self, number: int) -> ShardStream:
        return ShardStream(
            self.patterns,
            self.seed,
            self.shuffle_buffer,
            self.rank * len(self.places) + number,
            self.world * len(self.places),
        )

    def consumed(self, place: Place) -> None:
        """A batch that ends there has been trained on; its stream is the last one in turn."""
        self.places[place[0]] = place
        self.next = (place[0] + 1) % len(self.places)

    def state(self) -> list[int]:
        """What has been consumed, as numbers: the next stream, then the places."""
        return [self.next, *(value for place in self.places for value in place)]

    def load_state(self, processes: Sequence[Sequence[int]], setting: dict[str, Any]) -> None:
        """Go on from the `state()` of every process.

        UsageError when they had other shards, settings or workers, or were not as many.
        """
        ours = self._stream(0)
        ours.load_state(setting | {"rank": ours.rank})
        self.next, *values = processes[self.rank]
        places = [values[i : i + 4] for i in range(0, len(values), 4)]
        self.places = [(number, at, taken, skipped) for number, at, taken, skipped in places]


def collate_placed(samples: Sequence[tuple[dict, Place]]) -> tuple[Batch, Place]:
    """Samples of one stream -> a padded batch, and where the stream is behind it."""
    return collate([sample for sample, _ in samples]), samples[-1][1]


def _decode(data: bytes, flags: int) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:
        raise ImageError("a picture can be read in part only")
    return picture
