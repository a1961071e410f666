"""Which samples a process takes of every step."""

from __future__ import annotations

from collections.abc import Iterator

from edge_mm.train.recipe import Stage
from edge_mm_runtime.errors import UsageError


class Share:
    """The numbers of the samples that one process takes, in micro-batches of a step.

    A step's samples are dealt out micro-batch by micro-batch, process by process.
    """

    def __init__(self, first: int, steps: int, stage: Stage, process: int, processes: int):
        self.micro, rest = divmod(stage.batch_size, stage.accumulate * processes)
        if rest:
            raise UsageError(
                f"stage {stage.name}: batch_size {stage.batch_size} cannot be dealt out to "
                f"{processes} processes x {stage.accumulate} micro-batches; "
                f"take a multiple of {stage.accumulate * processes}"
            )
        self.starts = range(
            first + process * self.micro, first + steps * stage.batch_size, self.micro * processes
        )

    def __iter__(self) -> Iterator[int]:
        for start in self.starts:
            yield from range(start, start + self.micro)

    def __len__(self) -> int:
        return len(self.starts) * self.micro
