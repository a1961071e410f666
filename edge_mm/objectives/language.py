"""The language loss on answer tokens, and how probable a whole answer is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def language_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross entropy: logits [N,V], labels [N], weights [N]."""
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Natural log probability of each label: logits [B,L,V], labels [B,L] -> float32 [B,L].

    labels[b,i] is the token that follows position i, or -100 (torch's own ignore_index, IGNORE of
    data.samples) outside of answers, where the result is 0.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="none")
    return -losses.view(labels.shape)


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Natural log probability of each answer, summed over its tokens: as above -> float32 [B]."""
    return token_log_probs(logits, labels).sum(-1)
