"""The adversarial loss in float64, and which way its gradients point."""

from __future__ import annotations

import math

import numpy as np
import torch

from edge_mm.objectives.adversarial import ModalityDiscriminator, adversarial_loss


def test_adversarial_loss_is_the_formula_and_only_the_tokens_are_reversed(numeric_gradient) -> None:
    rng = np.random.default_rng(0)
    image, text = rng.normal(size=(5, 4)), rng.normal(size=(3, 4)) + 1
    direction = rng.normal(size=4)

    def formula(image: np.ndarray, text: np.ndarray, direction: np.ndarray) -> float:
        shares = (1 / (1 + np.exp(-tokens @ direction)) for tokens in (image, text))
        of_image, of_text = shares
        return float(-np.log(of_image).mean() / 2 - np.log(1 - of_text).mean() / 2)

    linear = torch.nn.Linear(4, 1, bias=False)
    linear.weight.data = torch.tensor(direction[None], dtype=torch.float32)
    tokens = [torch.tensor(v, requires_grad=True) for v in (image, text)]
    loss = adversarial_loss(*tokens, torch.nn.Sequential(linear, torch.nn.Flatten(0)), 0.3)
    assert abs(loss.item() - formula(image, text, direction)) < 1e-6
    of_image, of_text, of_weight = torch.autograd.grad(loss, [*tokens, linear.weight])
    expected = (
        -0.3 * numeric_gradient(lambda v: formula(v, text, direction), image),
        -0.3 * numeric_gradient(lambda v: formula(image, v, direction), text),
        numeric_gradient(lambda v: formula(image, text, v), direction)[None],
    )
    for a, b in zip((of_image, of_text, of_weight), expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-6)


def test_an_undecided_discriminator_costs_log_two() -> None:
    discriminator = ModalityDiscriminator(6, hidden=8)
    for parameter in discriminator.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    loss = adversarial_loss(torch.randn(4, 6), torch.randn(7, 6), discriminator, 1.0)
    assert math.isclose(loss.item(), math.log(2), rel_tol=1e-6)


def test_descent_sharpens_the_discriminator_and_blurs_the_tokens() -> None:
    torch.manual_seed(0)
    discriminator = ModalityDiscriminator(6, hidden=8)
    image, text = torch.randn(16, 6, requires_grad=True), torch.randn(16, 6) + 1

    def loss() -> torch.Tensor:
        return adversarial_loss(image, text, discriminator, 1.0)

    before = loss()
    parameters = list(discriminator.parameters())
    gradients = torch.autograd.grad(before, [image, *parameters])
    with torch.no_grad():
        image -= 0.5 * gradients[0]
        blurred = loss()
        image += 0.5 * gradients[0]
        for parameter, gradient in zip(parameters, gradients[1:], strict=True):
            parameter -= 0.05 * gradient
        sharpened = loss()
    assert sharpened < before < blurred


def test_bf16_autocast_does_not_reach_the_discriminator() -> None:
    torch.manual_seed(0)
    discriminator = ModalityDiscriminator(6, hidden=8)
    image, text = torch.randn(4, 6).bfloat16(), torch.randn(4, 6)
    outside = adversarial_loss(image, text, discriminator, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert adversarial_loss(image, text, discriminator, 1.0) == outside
