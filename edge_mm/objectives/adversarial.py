"""Adversarial alignment: picture tokens that a discriminator cannot tell from text embeddings.

One backward pass trains both sides (DANN, arXiv 1505.07818): the discriminator learns to tell the
modalities apart, and the reversed gradient makes what produced the tokens undo the difference.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GradientReversal(torch.autograd.Function):
    """Identity forward; backward the gradient times -strength."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def reverse_gradient(tokens: Tensor, strength: float) -> Tensor:
    """The tokens as they are; their gradient comes back times -strength."""
    same: Tensor = GradientReversal.apply(tokens, strength)  # type: ignore[no-untyped-call]
    return same


class ModalityDiscriminator(nn.Module):
    """Tokens [N,D] -> logit [N], positive: "this token comes from a picture"."""

    def __init__(self, size: int, hidden: int = 128):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.layers(tokens)
        return logits[:, 0]


def adversarial_loss(
    image_tokens: Tensor, text_tokens: Tensor, discriminator: nn.Module, strength: float
) -> Tensor:
    """Binary cross entropy of the discriminator, both modalities weighing the same -> scalar.

    image_tokens [N,D] and text_tokens [M,D], N, M >= 1, of the language model's space. The gradient
    that reaches the tokens is reversed and times `strength`, the discriminator's is not. Detach the
    text tokens where only the picture side should move.
    """
    with torch.autocast(image_tokens.device.type, enabled=False):
        image, text = (
            discriminator(reverse_gradient(tokens.float(), strength))
            for tokens in (image_tokens, text_tokens)
        )
        return (F.softplus(-image).mean() + F.softplus(text).mean()) / 2
