"""SEA: supervised embedding alignment, token by token (arXiv 2408.11813).

Each visual token that shows an object is pulled towards the language model's own embedding of the
object's words, among the embeddings of all such words. The labels come from the renderer instead
of a CLIP model, so they are true.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1


def sea_loss(tokens: Tensor, words: Tensor, target: Tensor) -> Tensor:
    """Projected tokens [N,D], word embeddings [W,D], right word of each token [N] (-1: none)."""
    labelled = target >= 0
    if not labelled.any():
        return tokens.sum() * 0.0
    cosine = F.normalize(tokens[labelled].float(), dim=-1) @ F.normalize(words.float(), dim=-1).T
    return F.cross_entropy(cosine / TEMPERATURE, target[labelled])
