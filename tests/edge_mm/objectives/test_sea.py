"""The teacher's labels of SEA by hand; the loss itself is compared in test_objectives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_mm.objectives.sea import candidate_words, sample_labels, sea_loss
from edge_mm_runtime.errors import UsageError


def test_candidate_words_in_float64() -> None:
    rng = np.random.default_rng(0)
    patches, words = rng.normal(size=(6, 8)), rng.normal(size=(5, 8))
    indices, weights = candidate_words(torch.tensor(patches), torch.tensor(words), 3, 0.2)
    for patch, found, weight in zip(patches, indices.tolist(), weights.numpy(), strict=True):
        cosine = words @ patch / np.linalg.norm(words, axis=1) / np.linalg.norm(patch)
        best = np.argsort(-cosine)[:3]
        odds = np.exp(cosine[best] / 0.2)
        assert found == best.tolist()
        np.testing.assert_allclose(weight, odds / odds.sum(), rtol=1e-5)


def test_labels_are_drawn_by_weight() -> None:
    rows = 20_000
    indices = torch.tensor([[7, 2, 4]]).expand(rows, 3)
    weights = torch.tensor([[0.6, 0.3, 0.1]]).expand(rows, 3)
    drawn = sample_labels(indices, weights, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=8) / rows
    expected = torch.tensor([0, 0, 0.3, 0, 0.1, 0, 0, 0.6])
    torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)  # four deviations
    again = sample_labels(indices, weights, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_a_sure_teacher_gives_the_true_labels() -> None:
    """At a low temperature the published SEA is the supervised one."""
    torch.manual_seed(0)
    words, true = torch.randn(4, 8), torch.tensor([2, 0, 3, 2, 1])
    indices, weights = candidate_words(words[true] + 0.01 * torch.randn(5, 8), words, 2, 1e-3)
    drawn = sample_labels(indices, weights, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, true)
    tokens, embeddings = torch.randn(5, 6), torch.randn(4, 6)
    assert sea_loss(tokens, embeddings, drawn) == sea_loss(tokens, embeddings, true)


def test_more_candidates_than_words() -> None:
    with pytest.raises(UsageError, match="5 candidates from 4 words"):
        candidate_words(torch.randn(2, 8), torch.randn(4, 8), 5, 0.1)
