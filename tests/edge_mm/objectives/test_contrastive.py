"""InfoNCE against the formula in float64; the CLIP loss itself is compared in test_objectives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edge_mm.objectives.contrastive import clip_loss, info_nce
from edge_mm.objectives.sea import sea_loss
from edge_mm.objectives.siglip import siglip_loss


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def formula(query, key, log_temperature, negatives=(), mask=None) -> float:
    losses = []
    for i, row in enumerate(query):
        keys = list(key)
        if len(negatives):
            keys += [n for n, used in zip(negatives[i], mask[i], strict=True) if used]
        odds = [np.exp(np.exp(log_temperature) * cosine(row, k)) for k in keys]
        losses.append(-np.log(odds[i] / sum(odds)))
    return float(np.mean(losses))


def test_info_nce_with_hard_negatives_is_the_formula_with_its_gradients(numeric_gradient) -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape) for shape in ((4, 5), (4, 5), (4, 2, 5))]
    query, key, negatives = values
    mask = np.array([[True, True], [True, False], [False, False], [False, True]])
    tensors = [torch.tensor(v, requires_grad=True) for v in (query, key, 1.2, negatives)]
    ours = info_nce(*tensors, negative_mask=torch.tensor(mask))
    assert abs(ours.item() - formula(query, key, 1.2, negatives, mask)) < 1e-6
    expected = (
        numeric_gradient(lambda q: formula(q, key, 1.2, negatives, mask), query),
        numeric_gradient(lambda k: formula(query, k, 1.2, negatives, mask), key),
        numeric_gradient(lambda t: formula(query, key, t, negatives, mask), np.array(1.2)),
        numeric_gradient(lambda n: formula(query, key, 1.2, n, mask), negatives),
    )
    for a, b in zip(torch.autograd.grad(ours, tensors), expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, atol=1e-6)


def test_info_nce_has_one_direction() -> None:
    """Rows that all point one way: the first key is found by all, which only the query pays for."""
    query = torch.eye(3)[[0, 0, 0]]
    key = torch.eye(3)
    scale = torch.tensor(0.0)
    expected = [math.log(math.e + 2) - 1, *[math.log(math.e + 2)] * 2]
    assert math.isclose(info_nce(query, key, scale).item(), np.mean(expected), rel_tol=1e-5)
    assert math.isclose(info_nce(key, query, scale).item(), math.log(3), rel_tol=1e-5)


def test_clip_loss_gives_hard_captions_to_the_pictures_only() -> None:
    torch.manual_seed(0)
    image, text, swapped = torch.randn(4, 8), torch.randn(4, 8), torch.randn(4, 1, 8)
    scale = torch.tensor(1.0)
    halves = info_nce(image, text, scale, swapped), info_nce(text, image, scale)
    torch.testing.assert_close(clip_loss(image, text, scale, swapped), sum(halves) / 2)
    assert clip_loss(image, text, scale, swapped) > clip_loss(image, text, scale)


def test_the_temperature_ends_at_100() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(4, 8), torch.randn(4, 8)
    high = torch.tensor(10.0, requires_grad=True)
    loss = info_nce(image, text, high)
    assert math.isclose(
        loss.item(), formula(image.numpy(), text.numpy(), math.log(100)), rel_tol=1e-5
    )
    assert torch.autograd.grad(loss, high)[0].item() == 0.0


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: clip_loss(a, b, torch.tensor(4.0), b[:, None].flip(0)),
        lambda a, b: siglip_loss(a, b, torch.tensor(2.0), torch.tensor(-5.0)),
        lambda a, b: sea_loss(a, b, torch.arange(len(a))),
    ],
    ids=["clip", "siglip", "sea"],
)
def test_bf16_autocast_does_not_reach_the_cosines(loss) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(8, 16), torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(a, b)
    torch.testing.assert_close(inside, loss(a, b), rtol=1e-6, atol=0)
