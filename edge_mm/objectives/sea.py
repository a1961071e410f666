"""SEA: supervised embedding alignment, token by token (arXiv 2408.11813, EMNLP 2025 main.55).

Each visual token is pulled towards the language model's own embedding of the words for what it
shows, among the embeddings of all words. Where the labels come from:

- true labels: the renderer knows what each token shows (train.alignment_losses);
- as published: a vision-language teacher compares its features of the patch with those of a list
  of words, and a word is drawn from the most similar ones, weighted by similarity, anew at every
  step (`candidate_words`, `sample_labels`). The teacher may be CLIP or our own contrastive stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edge_mm.objectives.similarity import cosine_similarity
from edge_mm_runtime.errors import UsageError

TEMPERATURE = 0.1


def sea_loss(tokens: Tensor, words: Tensor, target: Tensor) -> Tensor:
    """Projected tokens [N,D], word embeddings [W,D], right word of each token [N] (-1: none)."""
    labelled = target >= 0
    if not labelled.any():
        return tokens.sum() * 0.0
    cosine = cosine_similarity(tokens[labelled], words)
    return F.cross_entropy(cosine / TEMPERATURE, target[labelled])


@torch.no_grad()
def candidate_words(
    patches: Tensor, words: Tensor, k: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """The teacher's k best words for each patch -> (indices [N,k], weights float32 [N,k]).

    patches [N,D] and words [W,D] are the teacher's image and text features, in its shared space;
    the weights are the softmax of cosine / temperature over the k, best first. UsageError when the
    list has fewer than k words.
    """
    if not 1 <= k <= len(words):
        raise UsageError(f"SEA cannot choose {k} candidates from {len(words)} words: lower k")
    value, indices = cosine_similarity(patches, words).topk(k, dim=-1)
    return indices, (value / temperature).softmax(-1)


def sample_labels(
    indices: Tensor, weights: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """One word of each row of `candidate_words`, drawn by weight -> the `target` [N] of sea_loss.

    The generator lives on the device of the weights.
    """
    drawn = torch.multinomial(weights, 1, generator=generator)
    return indices.gather(1, drawn)[:, 0]
