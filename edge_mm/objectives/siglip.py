"""Contrastive alignment of pictures and captions by sigmoid: every pair is a question of its own.

Unlike the softmax of CLIP it needs no large batch, and a row does not compete with another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_mm.objectives.similarity import cosine_similarity

# Where the paper starts: most pairs are wrong, and at first the model says so.
LOG_TEMPERATURE, BIAS = math.log(10.0), -10.0


def siglip_loss(image: Tensor, text: Tensor, log_temperature: Tensor, bias: Tensor) -> Tensor:
    """Sigmoid loss (SigLIP, arXiv 2303.15343): image [B,D], text [B,D], row i belongs to i.

    `log_temperature` is the logarithm of the factor on the cosines, `bias` is added to them after
    it; both are learned scalars. Summed over the B*B pairs, per picture -> scalar.
    """
    cosine = cosine_similarity(image, text)
    logits = log_temperature.float().exp() * cosine + bias.float()
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)
