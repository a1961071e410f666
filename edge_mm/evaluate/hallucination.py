"""Does the model say that things are there that are not? POPE (Li et al., arXiv 2305.10355).

For each picture as many kinds that are there as kinds that are not, asked as "is there a ...?". The
absent ones are drawn three ways:
  random       any kind
  popular      the kinds that most pictures of the folder show
  adversarial  the kinds that most often stand beside the ones that are there
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_mm.data.refer import Noun, find, unclear
from edge_mm.data.scenes import Scene, Seen, read_frame, read_scenes, seen_objects
from edge_mm.data.templates import sentence
from edge_mm.evaluate.exam import Ask, progress, scenes_of
from edge_mm.evaluate.metrics import Scores
from edge_mm.words import KINDS
from edge_mm_runtime.answer import Answer

SETTINGS = ("random", "popular", "adversarial")
EACH = 3  # kinds that are there, and as many that are not, as POPE asks them


@dataclass
class Company:
    """How many pictures show a kind, and how many show two kinds together."""

    shown: Counter[str] = field(default_factory=Counter)
    together: Counter[tuple[str, str]] = field(default_factory=Counter)

    @staticmethod
    def of(scenes: Iterable[Scene]) -> Company:
        company = Company()
        for scene in scenes:
            kinds = {item.kind for item in scene.objects}
            company.shown.update(kinds)
            company.together.update((a, b) for a in kinds for b in kinds if a != b)
        return company


@dataclass(frozen=True)
class Probe:
    """One question about a kind, in which settings it counts, and whether the kind is there."""

    text: str
    kind: str
    settings: tuple[str, ...]
    there: bool


def probes(
    view: Sequence[Seen], company: Company, rng: random.Random, held_out: bool
) -> list[Probe]:
    """The questions about one picture, each of them once."""
    present = [kind for kind in KINDS if find(Noun(kind), view)]
    clear = [kind for kind in present if not unclear(Noun(kind), view)]
    absent = [kind for kind in KINDS if kind not in present]
    number = min(EACH, len(clear), len(absent))
    drawn = {
        setting: _most(absent, setting, present, company, rng)[:number] for setting in SETTINGS
    }
    negatives = {
        kind: tuple(setting for setting in SETTINGS if kind in drawn[setting])
        for kind in dict.fromkeys(kind for kinds in drawn.values() for kind in kinds)
    }
    asked: list[tuple[str, tuple[str, ...], bool]] = [
        (kind, SETTINGS, True) for kind in rng.sample(clear, number)
    ]
    asked += [(kind, settings, False) for kind, settings in negatives.items()]
    return [
        Probe(sentence("exist", rng, held_out).format(x=kind), kind, settings, there)
        for kind, settings, there in asked
    ]


def hallucination(
    ask_model: Ask, folder: Path, limit: int | None, held_out: bool, seed: int
) -> list[list[Scores]]:
    """Scores by picture and question, for metrics.figures."""
    scenes, company = scenes_of(folder, limit), Company.of(read_scenes(folder))
    pictures = []
    for number, scene in enumerate(scenes, 1):
        frame = read_frame(folder, scene)
        rng = random.Random(f"pope/{seed}/{scene.id}")
        pictures.append(
            [
                score(probe, claim(ask_model(frame, probe.text)))
                for probe in probes(seen_objects(scene), company, rng, held_out)
            ]
        )
        progress("hallucination", number, len(scenes))
    return pictures


def claim(answer: Answer) -> bool | None:
    """Whether an answer says that the thing is there, in whatever form; None if it says neither."""
    if answer.text == "yes" or answer.objects:
        return True
    return False if answer.text == "no" or answer.found is False else None


def score(probe: Probe, claimed: bool | None) -> Scores:
    """What one answer counts for: accuracy, share of yes, precision, recall and F1 of yes."""
    said, there = claimed is True, probe.there
    scores: Scores = {}
    for setting in probe.settings:
        name = f"pope_{setting}"
        scores |= {
            f"{name}_acc": float(claimed is there),
            f"{name}_yes": float(said),
            f"{name}_f1.hit": float(said and there),
            f"{name}_f1.said": float(said),
            f"{name}_f1.true": float(there),
        }
        if said:
            scores[f"{name}_precision"] = float(there)
        if there:
            scores[f"{name}_recall"] = float(said)
    return scores


def _most(
    absent: Sequence[str],
    setting: str,
    present: Sequence[str],
    company: Company,
    rng: random.Random,
) -> list[str]:
    """Absent kinds, the likeliest negatives of a setting first; ties in random order."""
    shuffled = rng.sample(absent, len(absent))
    if setting == "popular":
        shuffled.sort(key=lambda kind: -company.shown[kind])
    elif setting == "adversarial":
        shuffled.sort(key=lambda kind: -sum(company.together[other, kind] for other in present))
    return shuffled
