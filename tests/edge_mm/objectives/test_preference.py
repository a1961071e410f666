"""DPO in float64, with its gradient in closed form."""

from __future__ import annotations

import math

import numpy as np
import torch

from edge_mm.objectives.preference import dpo_loss


def test_dpo_is_the_closed_form_with_its_gradients() -> None:
    rng = np.random.default_rng(0)
    chosen, rejected, old_chosen, old_rejected = rng.normal(-10, 4, size=(4, 6))
    beta = 0.3
    tensors = [
        torch.tensor(v, requires_grad=True) for v in (chosen, rejected, old_chosen, old_rejected)
    ]
    loss, accuracy, margin = dpo_loss(*tensors, beta)
    margins = beta * ((chosen - old_chosen) - (rejected - old_rejected))
    assert math.isclose(loss.item(), np.log1p(np.exp(-margins)).mean(), rel_tol=1e-5)
    assert math.isclose(accuracy.item(), (margins > 0).mean(), rel_tol=1e-6)
    assert math.isclose(margin.item(), margins.mean(), rel_tol=1e-4)
    assert 0 < accuracy.item() < 1
    of_chosen, of_rejected, *of_reference = torch.autograd.grad(loss, tensors, allow_unused=True)
    expected = -beta / (1 + np.exp(margins)) / len(margins)
    np.testing.assert_allclose(of_chosen.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(of_rejected.numpy(), -expected, atol=1e-6)
    assert of_reference == [None, None]  # the reference is frozen
    assert not accuracy.requires_grad and not margin.requires_grad


def test_at_the_start_nothing_is_preferred() -> None:
    answers = torch.tensor([-3.0, -8.0]), torch.tensor([-5.0, -2.0])
    loss, accuracy, margin = dpo_loss(*answers, *answers, 0.1)
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)
    assert accuracy.item() == margin.item() == 0.0
