"""Contrastive alignment of pictures and captions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(image: Tensor, text: Tensor, log_temperature: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, arXiv 2103.00020): image [B,D] and text [B,D], row i belongs to i.

    `log_temperature` is the logarithm of the factor on the cosines, at most 100 as in CLIP.
    """
    image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
    logits = log_temperature.exp().clamp(max=100.0) * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
