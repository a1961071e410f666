"""Training samples: one picture, several questions, packed behind one image prefix (see packer)."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import Dataset

from edge_mm.data.augment import crop_and_flip, relight
from edge_mm.data.formats.given import answerable, draw, given_questions
from edge_mm.data.packer import IGNORE, Packer
from edge_mm.data.preferences import rejected
from edge_mm.data.questions import Question, ask
from edge_mm.data.questions.words import described
from edge_mm.data.scenes import (
    Scene,
    Seen,
    boxes_as_segmentation,
    read_frame,
    read_scenes,
    read_segmentation,
    seen_objects,
)
from edge_mm.model.config import ModelConfig
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import ImageError, UsageError


@dataclass(slots=True)
class Batch:
    """B pictures with their packed questions: L tokens, P cells a picture, M pointers in all."""

    pixel_values: Tensor  # [B,3,S,S] float32
    input_ids: Tensor  # [B,L]; ids >= vocab_size are image rows
    position_ids: Tensor  # [B,L]
    segments: Tensor  # [B,L]; -1 is padding
    labels: Tensor  # [B,L]; the token that follows, IGNORE outside of answers
    weights: Tensor  # [B,L]; 0 for a rejected answer
    kinds: Tensor  # [B,P] 0 background, then KINDS
    colors: Tensor  # [B,P] 0 background or unknown, then COLORS
    cell_boxes: Tensor  # [B,P,6] box and point of the cell's object, unit coordinates
    cell_ids: Tensor  # [B,P] object ids, 0 background
    pointers: Tensor  # [M,3] sample, position of <box> or <point>, object id
    mentions: Tensor  # [N,2] sample, position of the last token of a noun phrase
    mentioned: Tensor  # [N,P] bool: the cells of what it names
    subjects: Tensor  # [S,2] sample, position of <assistant>
    subject_cells: Tensor  # [S,P] bool: the cells of what the answer is about
    mention_places: Tensor  # [N,7] see `place`; NaN where not one object is named, or not known
    subject_places: Tensor  # [S,7]
    types: list[list[str]]  # question type of every segment but the prefix
    pairs: Tensor  # [Q,3] sample, segment of the right answer, segment of the rejected one
    caption_ids: Tensor  # [B,C] <bos> caption <eos>, padded with 0 = <pad>

    def to(self, device: torch.device) -> Batch:
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(v.to(device) if isinstance(v, Tensor) else v for v in values))


class SampleMaker:
    """A picture with its labels -> one augmented, packed sample."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer,
        questions: int,
        max_tokens: int,
        preferences: bool = False,
    ):
        self.config, self.packer = config, Packer(tokenizer, config)
        self.questions, self.max_tokens = questions, max_tokens
        self.preferences = preferences  # with a rejected answer beside the right one

    def sample(
        self,
        frame: np.ndarray,
        segmentation: np.ndarray | None,
        scene: Scene,
        given: Sequence[Question],
        types: Sequence[str],
        rng: random.Random,
    ) -> dict | None:
        """None when nothing can be asked about the view.

        frame uint8 [H,W,3] BGR, segmentation uint8 [H,W] or None for labels with boxes only;
        `given` came with the picture, of `types` are the questions that may be made of its labels.
        """
        view = seen_objects(scene)
        if segmentation is None:
            segmentation = boxes_as_segmentation(scene)
        given = draw(given, scene, self.questions, rng)
        if not given:  # the words and boxes of given ones hold for the picture as it is
            frame, segmentation, view = crop_and_flip(frame, segmentation, view, rng)
        frame = relight(frame, rng)
        labelled = bool(scene.objects)
        made = self.questions - len(given) if labelled or not given else 0
        asked = [*given, *(q for _ in range(made) if (q := ask(view, rng, kinds=types)))]
        if not asked:
            return None
        captions = [q.answer for q in given if q.type == "caption"]
        if not labelled:  # any answer tells more than an empty view does
            captions += [q.answer for q in given]
        text = captions[0] if captions else described(view)
        rejections = [rejected(q, view, rng) for q in asked] if self.preferences else ()
        row = self.packer.pack(asked, self.max_tokens, view, rejections)
        if row.segments[-1] == 0:  # no question is short enough
            return None
        if given and not labelled:  # what its words mean in the picture is not known
            row.mentions.clear()
        return {
            "pixels": self.config.image.apply(frame)[0],
            "row": row,
            "caption": [
                self.packer.ids["<bos>"],
                *self.packer.tokenizer.encode(text).ids,
                self.packer.ids["<eos>"],
            ],
            "places": {item.id: place(item) for item in view},
            **cell_targets(segmentation, view, self.config.vision.cells),
        }


class SceneSamples(Dataset):
    """Samples of data folders; sample number i is the same in every run with the same seed.

    Numbers go on for ever: each pass over the scenes has an order and views of its own.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        config: ModelConfig,
        tokenizer: Tokenizer,
        questions: int,
        max_tokens: int,
        seed: int,
        preferences: bool = False,
    ):
        self.skipped = 0  # pictures that could not be read
        self.items: list[tuple[Path, Scene]] = []
        self.given: dict[tuple[Path, str], tuple[Question, ...]] = {}
        self.answerable: dict[Path, tuple[str, ...]] = {}
        for folder in folders:
            scenes = read_scenes(folder)
            self.items += [(folder, scene) for scene in scenes]
            self.given |= {(folder, name): q for name, q in given_questions(folder).items()}
            self.answerable[folder] = answerable(scenes)
        if not self.items:
            raise UsageError(f"no scenes in {', '.join(map(str, folders))}")
        self.maker = SampleMaker(config, tokenizer, questions, max_tokens, preferences)
        self.seed = seed
        self.pass_number, self.order = -1, list(range(len(self.items)))

    def __getitem__(self, index: int) -> dict:
        cv2.setNumThreads(0)
        pass_number, place = divmod(index, len(self.items))
        if pass_number != self.pass_number:
            self.pass_number, self.order = pass_number, list(range(len(self.items)))
            random.Random(f"{self.seed}/{pass_number}").shuffle(self.order)
        rng = random.Random(f"{self.seed}/{pass_number}/{place}")
        for attempt in range(len(self.items)):  # nothing can be asked about an empty view
            folder, scene = self.items[self.order[(place + attempt) % len(self.items)]]
            try:
                sample = self.sample(folder, scene, rng)
            except ImageError as error:
                self.skipped += 1
                print(f"skipped scene {scene.id} ({self.skipped} in all): {error}", file=sys.stderr)
                continue
            if sample is not None:
                return sample
        raise UsageError(
            f"no scene of the data has an object that can be asked about ({self.skipped} skipped)"
        )

    def sample(self, folder: Path, scene: Scene, rng: random.Random) -> dict | None:
        """One augmented, packed sample; None when nothing can be asked about the view."""
        return self.maker.sample(
            read_frame(folder, scene),
            read_segmentation(folder, scene),
            scene,
            self.given.get((folder, scene.id), ()),
            self.answerable[folder],
            rng,
        )


def place(item: Seen) -> tuple[float, ...]:
    """Box and foot in unit coordinates, and a quarter of the log of the size in metres: so a ratio
    of sizes that matters counts like a distance that matters. NaN for an unknown size."""
    return (*item.box, *item.base, 0.25 * math.log(item.size_m) if item.size_m else math.nan)


def cell_targets(segmentation: np.ndarray, view: Sequence[Seen], cells: int) -> dict:
    """What each fine cell shows: object id, kind, colour, box and point; each [P] or [P,6]."""
    height, width = segmentation.shape
    centres = (np.arange(cells) + 0.5) / cells
    rows, columns = (centres * height).astype(int), (centres * width).astype(int)
    ids = segmentation[np.ix_(rows, columns)].copy()
    kinds, colors = np.zeros(256, np.int64), np.zeros(256, np.int64)
    boxes = np.zeros((256, 6), np.float32)
    for item in view:
        if not (ids == item.id).any():  # too thin for the grid: its grasp point's cell
            column, row = (min(int(v * cells), cells - 1) for v in item.point)
            ids[row, column] = item.id
        kinds[item.id] = 1 + KINDS.index(item.kind) if item.kind in KINDS else 0
        colors[item.id] = 1 + COLORS.index(item.color) if item.color in COLORS else 0
        boxes[item.id] = (*item.box, *item.point)
    known = {item.id for item in view}
    flat = np.where(np.isin(ids, list(known)), ids, 0).ravel()
    return {
        "ids": flat.astype(np.int64),
        "kinds": kinds[flat],
        "colors": colors[flat],
        "boxes": boxes[flat],
    }


def collate(samples: Sequence[dict]) -> Batch:
    """Samples -> a padded batch."""
    rows = [sample["row"] for sample in samples]

    def padded(values: list[list], fill: float, dtype: torch.dtype) -> Tensor:
        longest = max(len(v) for v in values)
        return torch.tensor([v + [fill] * (longest - len(v)) for v in values], dtype=dtype)

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([sample[name] for sample in samples]))

    pointers = [(i, at, item) for i, row in enumerate(rows) for at, item in row.pointers]
    ids = stacked("ids")

    def meant(name: str) -> tuple[Tensor, Tensor, Tensor]:
        found = [
            (i, at, objects) for i, row in enumerate(rows) for at, objects in getattr(row, name)
        ]
        cells = [np.isin(samples[i]["ids"], objects) for i, _, objects in found]
        unknown = (math.nan,) * 7
        places = [
            samples[i]["places"][objects[0]] if len(objects) == 1 else unknown
            for i, _, objects in found
        ]
        return (
            torch.tensor([(i, at) for i, at, _ in found], dtype=torch.long).reshape(-1, 2),
            torch.from_numpy(np.array(cells, bool).reshape(-1, ids.shape[1])),
            torch.tensor(places, dtype=torch.float32).reshape(-1, 7),
        )

    mentions, mentioned, mention_places = meant("mentions")
    subjects, subject_cells, subject_places = meant("subjects")
    return Batch(
        pixel_values=stacked("pixels"),
        input_ids=padded([row.ids for row in rows], 0, torch.long),
        position_ids=padded([row.positions for row in rows], 0, torch.long),
        segments=padded([row.segments for row in rows], -1, torch.long),
        labels=padded([row.labels for row in rows], IGNORE, torch.long),
        weights=padded([row.weights for row in rows], 0.0, torch.float32),
        kinds=stacked("kinds"),
        colors=stacked("colors"),
        cell_boxes=stacked("boxes"),
        cell_ids=ids,
        pointers=torch.tensor(pointers, dtype=torch.long).reshape(-1, 3),
        mentions=mentions,
        mentioned=mentioned,
        subjects=subjects,
        subject_cells=subject_cells,
        mention_places=mention_places,
        subject_places=subject_places,
        types=[row.types for row in rows],
        pairs=torch.tensor(
            [(i, *pair) for i, row in enumerate(rows) for pair in row.pairs], dtype=torch.long
        ).reshape(-1, 3),
        caption_ids=padded([sample["caption"] for sample in samples], 0, torch.long),
    )


def attention_mask(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Segments [B,L] -> additive mask [B,1,L,L]: the prefix and one's own segment, up to now."""
    length = segments.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    same = segments[:, :, None] == segments[:, None, :]
    allowed = past & (same | (segments[:, None, :] == 0))
    mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
    return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]
