"""What a process of a run reads: its share of numbered samples, or its part of streamed shards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from accelerate import Accelerator
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader

from edge_mm.data.samples import Batch, SampleMaker, SceneSamples, collate
from edge_mm.data.streamed import StreamedSamples, are_shards, collate_placed
from edge_mm.model.config import ModelConfig
from edge_mm.train.distributed import everyones
from edge_mm.train.recipe import Recipe, Stage
from edge_mm.train.share import Share
from edge_mm_runtime.errors import UsageError

LOOK = 8  # micro-batches of data.val in one look
FIRST = 4  # steps whose pictures say what the features of a tower are like


class Feed:
    """Batches on the device of this process, for training and for looks at data.val."""

    def __init__(
        self, recipe: Recipe, config: ModelConfig, tokenizer: Tokenizer, accelerator: Accelerator
    ):
        self.data, self.seed = recipe.data, recipe.train.seed
        self.config, self.tokenizer, self.accelerator = config, tokenizer, accelerator
        self.samples: StreamedSamples | None = None
        if are_shards(self.data.val):
            raise UsageError("data.val is read by number: name folders, not shards")
        if are_shards(self.data.train):
            self.samples = self._stream(
                recipe.stages[0], accelerator.process_index, accelerator.num_processes
            )

    def train(self, stage: Stage, first: int, steps: int) -> Iterator[Batch]:
        """The micro-batches of so many steps; `first` is the number of samples before them."""
        numbers = self._share(stage, first, steps)
        if self.samples is None:
            for batch in self.loader(self.data.train, stage, numbers):
                yield batch.to(self.accelerator.device)
            return
        self.samples.maker = self._maker(stage)
        loader = DataLoader(
            self.samples, numbers.micro, collate_fn=collate_placed, **self._workers()
        )
        for batch, place in loader:
            self.samples.consumed(place)
            yield batch.to(self.accelerator.device)

    def first(self, stage: Stage) -> Iterator[Tensor]:
        """Pixels of the first FIRST steps of data.train, the same ones in every process."""
        whole = Share(0, FIRST, msgspec.structs.replace(stage, accumulate=1), 0, 1)
        if self.samples is None:
            for batch in self.loader(self.data.train, stage, whole):
                yield batch.pixel_values.to(self.accelerator.device)
            return
        samples = self._stream(stage, 0, 1)
        loader = DataLoader(samples, whole.micro, collate_fn=collate_placed, **self._workers())
        for batch, _ in islice(loader, FIRST):
            yield batch.pixel_values.to(self.accelerator.device)

    def val(self, stage: Stage) -> Iterator[Batch]:
        """LOOK micro-batches of data.val, always the same ones."""
        numbers = self._share(msgspec.structs.replace(stage, accumulate=1), 0, LOOK)
        for batch in self.loader(self.data.val, stage, numbers):
            yield batch.to(self.accelerator.device)

    def loader(self, folders: tuple[str, ...], stage: Stage, numbers: Share) -> DataLoader:
        """The numbered samples of folders."""
        samples = SceneSamples(
            [Path(folder) for folder in folders],
            self.config,
            self.tokenizer,
            self.data.questions,
            self.data.max_tokens,
            self.seed,
            preferences="preference" in stage.losses,
        )
        return DataLoader(
            samples, numbers.micro, collate_fn=collate, sampler=numbers, **self._workers()
        )

    def skipped(self) -> int:
        """Samples of the shards that no process could use so far; every process must ask."""
        if self.samples is None:
            return 0
        mine = [sum(place[-1] for place in self.samples.places)]
        return sum(number for (number,) in everyones(mine, self.accelerator.device))

    def state(self) -> dict[str, Any] | None:
        """Where all processes stand in their streams, for JSON; every process must ask."""
        if self.samples is None:
            return None
        processes = everyones(self.samples.state(), self.accelerator.device)
        return {"setting": self.samples.setting, "processes": processes}

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Go on from `state()`; nothing to do for folders, whose samples have numbers."""
        if self.samples is not None and state is not None:
            self.samples.load_state(state["processes"], state["setting"])

    def _stream(self, stage: Stage, process: int, processes: int) -> StreamedSamples:
        return StreamedSamples(
            self.data.train,
            self._maker(stage),
            self.seed,
            self.data.shuffle_buffer,
            process,
            processes,
            max(1, self.data.workers),
        )

    def _maker(self, stage: Stage) -> SampleMaker:
        return SampleMaker(
            self.config,
            self.tokenizer,
            self.data.questions,
            self.data.max_tokens,
            preferences="preference" in stage.losses,
        )

    def _share(self, stage: Stage, first: int, steps: int) -> Share:
        return Share(
            first, steps, stage, self.accelerator.process_index, self.accelerator.num_processes
        )

    def _workers(self) -> dict[str, Any]:
        workers = self.data.workers
        return {
            "num_workers": workers,
            "multiprocessing_context": "fork" if workers else None,
            "prefetch_factor": 4 if workers else None,
        }
