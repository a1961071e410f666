"""Objectives against references that are not ours: transformers, numpy in float64, brute force."""

from __future__ import annotations

import numpy as np
import torch
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from edge_mm.objectives.contrastive import clip_loss
from edge_mm.objectives.language import language_loss
from edge_mm.objectives.regions import (
    box_loss,
    generalised_iou,
    mention_loss,
    place_loss,
    pointing_loss,
)
from edge_mm.objectives.sea import sea_loss


def test_clip_loss_is_transformers_with_its_gradients() -> None:
    torch.manual_seed(0)
    image, text = torch.randn(8, 16, requires_grad=True), torch.randn(8, 16, requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    ours = clip_loss(image, text, scale)
    cosine = (text / text.norm(dim=-1, keepdim=True)) @ (image / image.norm(dim=-1, keepdim=True)).T
    theirs = image_text_contrastive_loss(scale.exp() * cosine)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, [image, text, scale]),
        torch.autograd.grad(theirs, [image, text, scale]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_sea_loss_is_the_formula_in_float64() -> None:
    rng = np.random.default_rng(0)
    tokens, words = rng.normal(size=(6, 8)), rng.normal(size=(4, 8))
    target = np.array([0, 3, -1, 2, -1, 1])
    losses = []
    for token, label in zip(tokens, target, strict=True):
        if label >= 0:
            cosine = words @ token / np.linalg.norm(words, axis=1) / np.linalg.norm(token)
            odds = np.exp(cosine / 0.1)
            losses.append(-np.log(odds[label] / odds.sum()))
    ours = sea_loss(*(torch.tensor(v) for v in (tokens, words, target)))
    assert abs(ours.item() - np.mean(losses)) < 1e-5
    nothing = sea_loss(torch.tensor(tokens), torch.tensor(words), torch.full((6,), -1))
    assert nothing.item() == 0.0


def test_pointing_loss_is_the_mass_outside() -> None:
    torch.manual_seed(0)
    scores, target = torch.randn(6, 5), torch.rand(6, 5) > 0.5
    target[4] = False  # nothing to point at: does not count
    mass = [(torch.softmax(scores[m], 0) * target[m]).sum() for m in range(6) if target[m].any()]
    expected = -torch.stack(mass).log().mean()
    torch.testing.assert_close(pointing_loss(scores, target), expected)


def test_mention_loss_in_float64_with_its_gradient() -> None:
    torch.manual_seed(0)
    scores = torch.randn(4, 7, requires_grad=True)
    target = torch.rand(4, 7) > 0.5
    target[2] = False  # something that is not there: background only
    loss = mention_loss(scores, target)
    share = 1 / (1 + np.exp(-scores.detach().double().numpy()))
    right = target.numpy()
    expected, gradient = 0.0, np.zeros_like(share)
    for row, mask in enumerate(right):
        for cells, error in ((mask, share[row] - 1), (~mask, share[row])):
            if cells.any():
                expected -= np.log(1 - np.abs(error[cells])).mean() / len(right)
                gradient[row, cells] = error[cells] / cells.sum() / len(right)
    assert abs(loss.item() - expected) < 1e-6
    (ours,) = torch.autograd.grad(loss, scores)
    np.testing.assert_allclose(ours.numpy(), gradient, atol=1e-6)
    assert mention_loss(scores[:0], target[:0]).item() == 0


def test_place_loss_leaves_out_what_is_not_known() -> None:
    places = torch.tensor([[0.0, 1.0, 2.0], [5.0, 5.0, 5.0]], requires_grad=True)
    target = torch.tensor([[0.5, float("nan"), 3.5], [float("nan")] * 3])
    loss = place_loss(places, target)
    assert loss.item() == (0.5 + 1.5) / 2
    (gradient,) = torch.autograd.grad(loss, places)
    assert gradient.tolist() == [[-0.5, 0.0, -0.5], [0.0, 0.0, 0.0]]
    assert place_loss(places, torch.full((2, 3), float("nan"))).item() == 0


def test_generalised_iou_by_counting_pixels() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        corners = np.sort(rng.integers(0, 20, (2, 2, 2)), axis=1)
        corners[:, 1] += 1  # never empty
        (a, b) = (np.zeros((22, 22), bool) for _ in range(2))
        for mask, ((x1, y1), (x2, y2)) in zip((a, b), corners, strict=True):
            mask[y1:y2, x1:x2] = True
        union, both = (a | b).sum(), (a & b).sum()
        low, high = corners[:, 0].min(0), corners[:, 1].max(0)
        hull = np.prod(high - low)
        boxes = torch.tensor(corners.reshape(2, 4), dtype=torch.float32)
        expected = both / union - (hull - union) / hull
        assert abs(generalised_iou(boxes[:1], boxes[1:]).item() - expected) < 1e-5


def test_a_right_box_costs_nothing() -> None:
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.6, 0.3, 0.4]])
    assert box_loss(boxes, boxes).item() < 1e-6
    assert box_loss(boxes + 0.05, boxes).item() > 0.1


def test_language_loss_weighs_tokens() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 9), torch.tensor([1, 2, 3, 4])
    weights = torch.tensor([1.0, 0.0, 0.5, 0.0])
    rows = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(
        language_loss(logits, labels, weights), (rows[0] + 0.5 * rows[2]) / 1.5
    )
