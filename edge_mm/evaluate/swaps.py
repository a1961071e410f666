"""Compositional swaps: which attribute belongs to which thing, and which thing is left of which.

In a picture of a red cup and a blue bowl there is a red cup and a blue bowl, and neither a blue cup
nor a red bowl. A model that sees the words but not who they belong to says yes to all four, so only
all four right count (the group score of Winoground, arXiv 2204.03162; ARO, arXiv 2210.01936).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from edge_mm.data.questions.common import clear_ones
from edge_mm.data.refer import Noun, find, relation, unclear
from edge_mm.data.scenes import Seen, read_frame, seen_objects
from edge_mm.data.templates import sentence
from edge_mm.evaluate.exam import Ask, progress, scenes_of
from edge_mm.evaluate.hallucination import claim
from edge_mm.evaluate.metrics import Scores

PAIRS = 2  # of each sort about a picture


@dataclass(frozen=True)
class Swap:
    """Questions that differ by a swap of words only, each with whether yes is right."""

    name: str  # of its metric
    questions: tuple[tuple[str, bool], ...]


def color_swaps(view: Sequence[Seen], rng: random.Random, held_out: bool) -> list[Swap]:
    """Pairs of things whose colours could be swapped, and then nothing of that name is there."""
    swaps = []
    for a, b in combinations(clear_ones(view), 2):
        true = Noun(a.kind, a.color), Noun(b.kind, b.color)
        swapped = Noun(a.kind, b.color), Noun(b.kind, a.color)
        if not (a.color and b.color) or any(unclear(noun, view) for noun in true):
            continue
        if any(find(noun, view) for noun in swapped):
            continue
        text = sentence("exist", rng, held_out)
        asked = [(noun, True) for noun in true] + [(noun, False) for noun in swapped]
        swaps.append(
            Swap(
                "swap_exist",
                tuple((text.format(x=f"{n.color} {n.word}"), right) for n, right in asked),
            )
        )
    return swaps


def relation_swaps(view: Sequence[Seen], rng: random.Random, held_out: bool) -> list[Swap]:
    """Pairs of things of unlike names, of which one is clearly left of, ... the other."""
    swaps = []
    for a, b in combinations(clear_ones(view), 2):
        nouns = Noun(a.kind, a.color), Noun(b.kind, b.color)
        name = relation(a, b)
        if name is None or any(len(find(n, view)) != 1 or unclear(n, view) for n in nouns):
            continue
        text = sentence("relation", rng, held_out)
        swaps.append(
            Swap(
                "swap_relation",
                (
                    (text.format(x=a.label, r=name, y=b.label), True),
                    (text.format(x=b.label, r=name, y=a.label), False),
                ),
            )
        )
    return swaps


def swap_exam(
    ask_model: Ask, folder: Path, limit: int | None, held_out: bool, seed: int
) -> list[list[Scores]]:
    """Scores by picture and swap, for metrics.figures."""
    scenes = scenes_of(folder, limit)
    pictures = []
    for number, scene in enumerate(scenes, 1):
        frame, view = read_frame(folder, scene), seen_objects(scene)
        rng = random.Random(f"swaps/{seed}/{scene.id}")
        found = [color_swaps(view, rng, held_out)]
        if scene.camera:  # photos do not say where things stand
            found.append(relation_swaps(view, rng, held_out))
        chosen = [swap for swaps in found for swap in rng.sample(swaps, min(PAIRS, len(swaps)))]
        picture: list[Scores] = []
        for swap in chosen:
            right = [claim(ask_model(frame, text)) is yes for text, yes in swap.questions]
            picture.append({swap.name: float(all(right))})
            picture += [{f"{swap.name}_each": float(one)} for one in right]
        pictures.append(picture)
        progress("swaps", number, len(scenes))
    return pictures
