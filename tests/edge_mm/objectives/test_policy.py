"""GRPO against loops in float64 with gradients by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_mm.objectives.policy import group_advantages, policy_loss
from edge_mm_runtime.errors import UsageError


def test_group_advantages_are_standard_scores() -> None:
    rewards = np.random.default_rng(0).uniform(size=(3, 5))
    ours = group_advantages(torch.tensor(rewards)).numpy()
    for row, expected in zip(ours, rewards, strict=True):
        np.testing.assert_allclose(row, (expected - expected.mean()) / expected.std(), rtol=2e-3)


def test_a_group_that_agrees_teaches_nothing() -> None:
    same = group_advantages(torch.tensor([[0.1] * 7, [1.0] * 7]))
    assert same.abs().max() < 1e-3
    assert group_advantages(torch.tensor([[0.7]])).tolist() == [[0.0]]


def formula(now, old, advantages, mask, clip, reference, kl) -> float:
    answers = []
    for index in np.ndindex(advantages.shape):
        gains = []
        for t in np.flatnonzero(mask[index]):
            ratio = np.exp(now[index][t] - old[index][t])
            worth = advantages[index]
            gain = min(ratio * worth, min(max(ratio, 1 - clip), 1 + clip) * worth)
            odds = np.exp(reference[index][t] - now[index][t])
            gains.append(gain - kl * (odds - np.log(odds) - 1))
        answers.append(np.mean(gains) if gains else 0.0)
    return -float(np.mean(answers))


def test_policy_loss_is_the_formula_with_its_gradient(numeric_gradient) -> None:
    rng = np.random.default_rng(0)
    now, old, reference = -rng.uniform(0.1, 1.5, size=(3, 2, 3, 4))
    advantages = rng.normal(size=(2, 3))
    mask = np.arange(4) < np.array([[4, 2, 1], [3, 0, 4]])[..., None]
    ratio = np.exp(now - old)[mask]
    assert (ratio > 1.2).any() and (ratio < 0.8).any()  # both ends of the clip are met
    # What lies outside of the answers does not matter, whatever it is.
    tensors = [torch.tensor(np.where(mask, v, -np.inf)) for v in (now, old, reference)]
    tensors[0].requires_grad_()
    others = torch.tensor(advantages), torch.tensor(mask)
    loss = policy_loss(tensors[0], tensors[1], *others, 0.2, tensors[2], 0.5)
    assert abs(loss.item() - formula(now, old, advantages, mask, 0.2, reference, 0.5)) < 1e-6
    expected = numeric_gradient(
        lambda v: formula(v, old, advantages, mask, 0.2, reference, 0.5), now
    )
    (ours,) = torch.autograd.grad(loss, tensors[0])
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_the_first_step_is_the_policy_gradient() -> None:
    """Where the model is the one that answered: -advantage on each token, by length and answers."""
    log_probs = torch.tensor([[[-1.0, -2.0], [-0.5, -9.0]]], requires_grad=True)
    mask = torch.tensor([[[True, True], [True, False]]])
    loss = policy_loss(log_probs, log_probs, torch.tensor([[1.0, -3.0]]), mask, 0.2)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    torch.testing.assert_close(gradient, torch.tensor([[[-0.25, -0.25], [1.5, 0.0]]]))


def test_kl_needs_a_reference() -> None:
    values = torch.zeros(1, 1, 2)
    with pytest.raises(UsageError, match="reference_log_probs"):
        policy_loss(values, values, torch.ones(1, 1), values == 0, 0.2, kl=0.1)
