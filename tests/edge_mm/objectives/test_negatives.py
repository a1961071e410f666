"""Hard negatives by brute force; swapped captions by reading them."""

from __future__ import annotations

import random
import re

import pytest
import torch

from edge_mm.data.questions.common import clear_ones
from edge_mm.data.questions.words import caption
from edge_mm.objectives.contrastive import info_nce
from edge_mm.objectives.negatives import hardest, swap_attributes
from edge_mm.words import COLORS, KINDS
from tests.edge_mm.conftest import imagined_view


def test_hardest_by_brute_force() -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    for size, k in ((6, 2), (5, 4), (3, 5), (1, 2)):
        similarity = torch.randn(size, size)
        captions = [rng.randrange(4) for _ in range(size)]
        same = torch.tensor([[a == b for b in captions] for a in captions])
        expected = []
        for i in range(size):
            wrong = [j for j in range(size) if captions[j] != captions[i]]
            best = sorted(wrong, key=lambda j, i=i: -similarity[i, j].item())[:k]
            expected.append(best + [-1] * (k - len(best)))
        assert hardest(similarity, k, same).tolist() == expected


def test_a_row_is_never_its_own_negative() -> None:
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    found = hardest(10 * torch.eye(4), 3, nothing)
    assert [sorted(row) for row in found.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_missing_negatives_are_masked_out_of_info_nce() -> None:
    torch.manual_seed(0)
    key, scale = torch.randn(4, 8), torch.tensor(1.0)
    found = hardest(key @ key.T, 2, torch.ones(4, 4, dtype=torch.bool))
    loss = info_nce(key, key, scale, key[found], found >= 0)
    torch.testing.assert_close(loss, info_nce(key, key, scale))


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("red cup and blue bowl", "blue cup and red bowl"),
        ("a red cup and an orange can", "an orange cup and a red can"),
        ("2 gray boxes and a white plate", "2 white boxes and a gray plate"),
        ("a banana, a red cup and a red ball", None),  # the same colour
        ("a red cup and 2 blue cups", None),  # the same kind: only the counts would differ
        ("a red cup, a red ball and a pink pear", "a pink cup, a red ball and a red pear"),
        ("a red cup, a blue bowl and a blue cup", None),  # would be the same three objects
        ("a banana and a red cup", None),
        ("a red canister and a blue cup", None),
        ("nothing", None),
    ],
)
def test_swap_attributes(text: str, swapped: str | None) -> None:
    assert swap_attributes(text) == swapped


def test_a_swapped_caption_is_false_but_well_said() -> None:
    rng = random.Random(0)
    swaps = 0
    for _ in range(100):
        view = imagined_view(rng)
        described = caption(view, rng, False)
        if described is None or (text := swap_attributes(described.answer)) is None:
            continue
        swaps += 1
        assert sorted(text.replace("an ", "a ")) == sorted(described.answer.replace("an ", "a "))
        said = {
            label
            for label in (f"{color} {kind}" for color in COLORS for kind in KINDS)
            if re.search(rf"\b{label}(s|es)?\b", text)
        }
        assert len(said - {item.label for item in clear_ones(view)}) == 2
        assert not re.search(r"\ba [aeio]|\ban [^aeio]", text)
    assert swaps > 20
