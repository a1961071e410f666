"""The two halves of a transformer block, for the projectors that look with learned queries."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4  # of the feed-forward network


class Attention(nn.Module):
    """Multi-head attention (arXiv 1706.03762): queries [B,T,D], context [B,N,D] -> [B,T,D].

    `mask` [B,1,1,N], bool, is True for what may be seen.
    """

    def __init__(self, size: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(queries), self.key(context), self.value(context))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))


def feed_forward(size: int) -> nn.Sequential:
    """Norm and two layers with a GELU, [..,D] -> [..,D], to be added to its input."""
    return nn.Sequential(
        nn.LayerNorm(size),
        nn.Linear(size, EXPANSION * size),
        nn.GELU(),
        nn.Linear(EXPANSION * size, size),
    )
