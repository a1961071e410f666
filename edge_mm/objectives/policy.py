"""Group-relative policy optimisation (GRPO, arXiv 2402.03300): learning from rewarded answers.

For each of B prompts the model says G answers of at most T tokens; an answer is worth what its
reward is above the mean of its group, so no value model is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edge_mm_runtime.errors import UsageError

EPSILON = 1e-4  # a group that agrees on its reward teaches nothing, whatever its rounding errors


def group_advantages(rewards: Tensor) -> Tensor:
    """Rewards [B,G] -> float32 [B,G]: less the group's mean, over its standard deviation.

    The deviation is that of the population (divided by G), so that a group of one gives 0.
    """
    rewards = rewards.float()
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / (rewards.std(-1, keepdim=True, correction=0) + EPSILON)


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    reference_log_probs: Tensor | None = None,
    kl: float = 0.0,
) -> Tensor:
    """The negated clipped objective of GRPO -> scalar.

    log_probs [B,G,T] of the said tokens under the model (language.token_log_probs),
    `old_log_probs` under the model that said them, `reference_log_probs` under the one that it
    should stay near; mask bool [B,G,T] is True on answer tokens, advantages [B,G]. Ratios count
    within 1 - clip .. 1 + clip; `kl` weighs the estimate exp(d) - d - 1, d = reference - model.
    Mean over the tokens of an answer, then over all answers. UsageError: `kl` without a reference.
    """
    if kl and reference_log_probs is None:
        raise UsageError("a policy loss with kl > 0 needs reference_log_probs: give them, or kl=0")

    # Padding may hold anything, infinities too: cut it off before exp() sees it.
    def answered(values: Tensor) -> Tensor:
        return torch.where(mask, values.float(), 0.0)

    now = answered(log_probs)
    ratio = (now - answered(old_log_probs.detach())).exp()
    advantage = advantages.detach().float()[..., None]
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    if reference_log_probs is not None:
        drift = answered(reference_log_probs.detach()) - now
        gain = gain - kl * (drift.exp() - drift - 1)
    return -(answered(gain).sum(-1) / mask.sum(-1).clamp(min=1)).mean()
