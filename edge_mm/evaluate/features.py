"""Picture and caption features of a checkpoint over a data folder, and what they are measured by.

A caption lists what is there ("a red cup and 2 blue bowls"), as it was trained; the prompts of the
zero-shot classes are captions of one thing ("a red cup"), and its pictures are cut out of scenes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from edge_mm.data.questions.common import clear_ones
from edge_mm.data.questions.words import caption
from edge_mm.data.scenes import Seen, read_frame, seen_objects
from edge_mm.evaluate import embeddings as e
from edge_mm.evaluate.exam import progress, scenes_of
from edge_mm.evaluate.metrics import Figure, one_by_one, ratio
from edge_mm.model.checkpoint import load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import UsageError

BATCH = 16
SMALLEST_CROP = 8  # pixels
MARGIN = 0.2  # of the longer side, around a thing that is cut out
FEWEST = 8  # pictures with a caption: nearest neighbours of fewer say nothing


@dataclass(frozen=True)
class Features:
    """N pictures with captions, and M things cut out of them; F features each."""

    image: np.ndarray  # [N,F]
    text: np.ndarray  # [N,F]
    swapped: np.ndarray  # [N,F] the caption with two colours swapped; nan where none can be
    captions: tuple[str, ...]
    shown: tuple[frozenset[str], ...]  # the kinds, colours and names of what is in each picture
    crops: np.ndarray  # [M,F]
    crop_of: np.ndarray  # [M] its picture
    crop_color: np.ndarray  # [M] index in COLORS
    crop_kind: np.ndarray  # [M] index in KINDS
    prompts: np.ndarray  # [COLORS,KINDS,F]


def features(folder: Path, data: Path, limit: int | None = None) -> Features:
    """The features of a checkpoint over the scenes of a data folder that have a caption."""
    model, tokenizer = load_model(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    scenes = scenes_of(data, limit)
    images, crops = [], []
    captions: list[str] = []
    swapped, shown, crop_of, looks = [], [], [], []
    for number, scene in enumerate(scenes, 1):
        view = seen_objects(scene)
        text = describe(view)
        if text is None:
            continue
        frame = read_frame(data, scene)
        cut = [
            (item, crop)
            for item in clear_ones(view)
            if item.kind in KINDS
            and item.color in COLORS
            and (crop := cut_out(frame, item)) is not None
        ]
        pictures = image_features(model, [frame, *(crop for _, crop in cut)])
        images.append(pictures[0])
        crops.append(pictures[1:])
        crop_of += [len(captions)] * len(cut)
        looks += [(COLORS.index(item.color or ""), KINDS.index(item.kind)) for item, _ in cut]
        captions.append(text)
        swapped.append(swap_colors(view))
        shown.append(
            frozenset(w for o in clear_ones(view) for w in (o.kind, o.color, o.label) if w)
        )
        progress("embeddings", number, len(scenes))
    if len(captions) < FEWEST:
        raise UsageError(
            f"{data} has {len(captions)} pictures with a caption: embeddings need {FEWEST}"
        )
    every = [[prompt(color, kind) for kind in KINDS] for color in COLORS]
    prompts = caption_features(model, tokenizer, [text for row in every for text in row])
    other = caption_features(model, tokenizer, [text or "nothing" for text in swapped])
    other[[text is None for text in swapped]] = np.nan
    color, kind = np.array(looks, int).reshape(-1, 2).T
    return Features(
        image=np.stack(images),
        text=caption_features(model, tokenizer, captions),
        swapped=other,
        captions=tuple(captions),
        shown=tuple(shown),
        crops=np.concatenate(crops),
        crop_of=np.array(crop_of, int),
        crop_color=color,
        crop_kind=kind,
        prompts=prompts.reshape(len(COLORS), len(KINDS), -1),
    )


@torch.no_grad()
def image_features(model: EdgeMM, frames: Iterable[np.ndarray]) -> np.ndarray:
    """Frames uint8 [H,W,3] -> [N,F]."""
    pixels = [torch.from_numpy(model.config.image.apply(frame)) for frame in frames]
    parts = [torch.cat(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]
    return torch.cat([model.image_features(model.vision(part)[0]) for part in parts]).numpy()


@torch.no_grad()
def caption_features(model: EdgeMM, tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """Captions -> [N,F], each between <bos> and <eos> as it was trained."""
    first, last = (tokenizer.token_to_id(name) for name in ("<bos>", "<eos>"))
    rows = [[first, *tokenizer.encode(text).ids, last] for text in texts]
    parts = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        longest = max(map(len, part))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in part])
        parts.append(model.caption_features(ids))
    return torch.cat(parts).numpy()


def describe(view: Sequence[Seen]) -> str | None:
    """The caption of a view; None where there is nothing, or too much to tell."""
    described = caption(view, random.Random(0), False)  # which words ask for it does not matter
    return described.answer if described else None


def prompt(color: str, kind: str) -> str:
    """The caption of one thing."""
    middle = (0.5, 0.5)
    thing = Seen(1, kind, color, (0.0, 0.0, 1.0, 1.0), middle, middle, 1.0, 0.1, None)
    return describe([thing]) or ""


def swap_colors(view: Sequence[Seen]) -> str | None:
    """The caption with the colours of two things swapped; None where that changes nothing."""
    clear = clear_ones(view)
    for a, b in combinations(clear, 2):
        if a.color and b.color and a.color != b.color and a.kind != b.kind:
            swap = {a.id: replace(a, color=b.color), b.id: replace(b, color=a.color)}
            return describe([swap.get(item.id, item) for item in clear])
    return None


def cut_out(frame: np.ndarray, item: Seen) -> np.ndarray | None:
    """The square around a thing with a margin, within the frame; None if the thing is too small."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = np.array(item.box) * (width, height, width, height)
    longer = max(x2 - x1, y2 - y1)
    if longer < SMALLEST_CROP:
        return None
    reach = longer * (0.5 + MARGIN)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return frame[
        max(0, round(y - reach)) : round(y + reach), max(0, round(x - reach)) : round(x + reach)
    ]


def figures_of(found: Features) -> dict[str, Figure]:
    """The figures over the N pictures. Retrieval searches all pictures, whichever are drawn."""
    image, text = e.normalised(found.image), e.normalised(found.text)
    count = len(image)
    same, cosines = e.same_captions(found.captions), image @ text.T
    figures = {
        f"retrieval_{way}_r{k}": _mean(e.recall_at(table, same, k))
        for way, table in (("i2t", cosines), ("t2i", cosines.T))
        for k in (1, 5, 10)
    }
    matched = np.diag(cosines)
    above = (e.ranked_above(cosines, same) + e.ranked_above(cosines.T, same)) / 2
    other = np.where(same, 0.0, cosines).sum(1) / np.maximum((~same).sum(1), 1)
    figures |= {
        "ranking_acc": _mean(above),
        "cosine_matched": _mean(matched),
        "cosine_other": _mean(np.where((~same).any(1), other, np.nan)),
        "neighbour_agreement": _mean(e.neighbour_agreement(image, text)),
        "semantic_consistency": _mean(e.semantic_consistency(image, e.jaccard(found.shown))),
        "modality_gap": one_by_one(lambda drawn: e.modality_gap(image[drawn], text[drawn]), count),
        "image_rank": one_by_one(lambda drawn: e.effective_rank(image[drawn]), count),
        "text_rank": one_by_one(lambda drawn: e.effective_rank(text[drawn]), count),
        "swap_caption": _mean(_nearer(matched, (image * e.normalised(found.swapped)).sum(1))),
    }
    if len(found.crops):
        for name, prompts, truth in (
            ("color", found.prompts, found.crop_color),
            ("kind", found.prompts.transpose(1, 0, 2), found.crop_kind),
        ):
            right = e.zero_shot(found.crops, prompts) == truth
            figures[f"zero_shot_{name}"] = ratio(
                np.bincount(found.crop_of, right, count),
                np.bincount(found.crop_of, minlength=count),
                len(right),
            )
    return figures


def _mean(values: np.ndarray) -> Figure:
    """The mean over pictures [N] of what is a number."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0), known, int(known.sum()))


def _nearer(matched: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(other), np.nan, matched > other)
