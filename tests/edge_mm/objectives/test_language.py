"""Log probabilities of answers against torch.distributions, with the gradient of the softmax."""

from __future__ import annotations

import torch

from edge_mm.data.samples import IGNORE
from edge_mm.objectives.language import sequence_log_probs, token_log_probs


def test_log_probs_are_those_of_a_categorical_with_its_gradient() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 7, requires_grad=True)
    labels = torch.randint(0, 7, (3, 5))
    answered = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    labels[~answered] = IGNORE
    exact = torch.distributions.Categorical(logits=logits.detach().double())
    tokens = exact.log_prob(labels.clamp(min=0)) * answered
    ours = sequence_log_probs(logits, labels)
    torch.testing.assert_close(token_log_probs(logits, labels).double(), tokens)
    torch.testing.assert_close(ours.double(), tokens.sum(-1))
    assert ours[2].item() == 0.0
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    right = torch.nn.functional.one_hot(labels.clamp(min=0), 7)
    expected = (right - exact.probs) * answered[..., None]
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=1e-5)


def test_bf16_logits_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 40, 50).bfloat16(), torch.randint(0, 50, (1, 40))
    ours = sequence_log_probs(logits, labels)
    assert ours.dtype == torch.float32
    exact = torch.distributions.Categorical(logits=logits.double()).log_prob(labels).sum(-1)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)
