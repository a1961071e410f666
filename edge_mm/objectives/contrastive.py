"""Contrastive alignment of pictures and captions by softmax: InfoNCE one way, CLIP both ways.

`log_temperature` (scalar) is the logarithm of the factor on the cosines, at most 100 as in CLIP.
Hard negatives are further keys [B,K,D] that only their own row competes with, such as its caption
with two colours swapped (NegCLIP, arXiv 2210.01936) or rows that `negatives.hardest` names;
`negative_mask` bool [B,K] is False where a row has no such key.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_mm.objectives.similarity import cosine_similarity

MAX_SCALE = 100.0


def info_nce(
    query: Tensor,
    key: Tensor,
    log_temperature: Tensor,
    negatives: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    """InfoNCE (arXiv 1807.03748): query [B,D] finds its own row of key [B,D] -> scalar."""
    scale = log_temperature.float().exp().clamp(max=MAX_SCALE)
    logits = scale * cosine_similarity(query, key)
    if negatives is not None:
        hard = scale * cosine_similarity(query[:, None], negatives)[:, 0]
        if negative_mask is not None:
            hard = hard.masked_fill(~negative_mask, float("-inf"))
        logits = torch.cat([logits, hard], dim=1)
    return F.cross_entropy(logits, torch.arange(len(query), device=query.device))


def clip_loss(
    image: Tensor,
    text: Tensor,
    log_temperature: Tensor,
    negatives: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv 2103.00020): image [B,D] and text [B,D], row i belongs to i.

    `negatives` are captions that each picture should not choose.
    """
    to_text = info_nce(image, text, log_temperature, negatives, negative_mask)
    return (to_text + info_nce(text, image, log_temperature)) / 2
