"""Cosine similarity in float32, what the contrastive objectives compare by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """Every row of a [...,N,D] with every row of b [...,M,D] -> float32 [...,N,M] in -1..1."""
    # Autocast would multiply in bf16: an error of 0.004 becomes 0.4 at CLIP's highest temperature.
    with torch.autocast(a.device.type, enabled=False):
        return F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).mT
