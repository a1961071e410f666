"""Direct preference optimisation: the better of two answers becomes more probable."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO (arXiv 2305.18290) -> (loss, accuracy, margin), scalars; only the loss has a gradient.

    All inputs are log probabilities of whole answers, [B] (language.sequence_log_probs), of the
    model and of the frozen one that it started from. A reward is beta times how much more probable
    the model makes an answer than the reference does; `margin` is the mean reward of the chosen
    answers minus that of the rejected ones, `accuracy` the share of pairs where it is positive.
    """
    chosen_gain = chosen.float() - reference_chosen.detach().float()
    rejected_gain = rejected.float() - reference_rejected.detach().float()
    margins = beta * (chosen_gain - rejected_gain)
    shown = margins.detach()
    return -F.logsigmoid(margins).mean(), (shown > 0).float().mean(), shown.mean()
