"""What several processes do together; with one process everything here is the identity."""

from __future__ import annotations

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
