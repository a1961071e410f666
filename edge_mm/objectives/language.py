"""The language loss on answer tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def language_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross entropy: logits [N,V], labels [N], weights [N]."""
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)
