"""What several processes do together; with one process everything here is the identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def world() -> int:
    """Number of processes of the run."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def gather(rows: Tensor) -> Tensor:
    """[B,D] of this process -> [W*B,D] of all, in the order of the processes, with gradients."""
    return torch.cat(all_gather(rows)) if world() > 1 else rows


def total(values: Tensor) -> Tensor:
    """Sum over the processes."""
    if world() > 1:
        torch.distributed.all_reduce(values)
    return values


def everyones(numbers: Sequence[int], device: torch.device) -> list[list[int]]:
    """The same many whole numbers of each process, in the order of the processes."""
    mine = torch.tensor(numbers, device=device)
    found = [torch.empty_like(mine) for _ in range(world())]
    if len(found) == 1:
        return [mine.tolist()]
    torch.distributed.all_gather(found, mine)
    return [theirs.tolist() for theirs in found]


def of_the_first(flag: bool, device: torch.device) -> bool:
    """What the first process says."""
    if world() == 1:
        return flag
    said = torch.tensor(int(flag), device=device)
    torch.distributed.broadcast(said, 0)
    return bool(said)
