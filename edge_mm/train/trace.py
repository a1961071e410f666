"""What a run has learned so far, seen on a few fixed pictures: how features align, word by word.

    OUT/trace/samples.json    captions, pictures, what their tokens show
    OUT/trace/pictures/       the pictures, small
    OUT/trace/000012800.npz   one look, named by the samples seen until then

`Probe` looks at a model, `Trace` writes the looks of a run, `read_trace` reads them for
`edge-mm report`. No pickle; a look takes about as long as two training steps.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer

from edge_mm.data.formats.given import given_questions
from edge_mm.data.samples import cell_targets
from edge_mm.data.scenes import (
    Scene,
    boxes_as_segmentation,
    read_frame,
    read_scenes,
    read_segmentation,
    seen_objects,
)
from edge_mm.evaluate.features import describe
from edge_mm.model.config import ModelConfig
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.similarity import cosine_similarity
from edge_mm.train.alignment_losses import Words, token_labels
from edge_mm.train.recipe import Recipe
from edge_mm.words import KINDS
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.image import Frame, read_image, write_image

PICTURES = 24
MAPPED = 4  # pictures whose tokens are compared with words
FEWEST = 2  # pictures with different captions: a matrix of one cosine has no rest
THUMBNAIL_PX = 240


class Subjects(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked at: N pictures with captions that differ; `samples.json`."""

    captions: tuple[str, ...]
    words: tuple[str, ...]  # the words that tokens are compared with
    grid: int | None  # side of the square of visual tokens; None: they have no places
    mapped: tuple[int, ...]  # the M pictures with a token map
    shown: tuple[tuple[int, ...], ...]  # [M,T] the word for what each token shows; -1: none


@dataclass(frozen=True)
class Look:
    """The model's view of the subjects at one step."""

    stage: str
    step: int
    samples: int  # seen until then, over all stages
    image: np.ndarray  # [N,F] float32
    text: np.ndarray  # [N,F] float32
    word: np.ndarray  # [M,T] int64, the nearest word of each visual token
    cosine: np.ndarray  # [M,T] float32, the token's cosine to it


class Probe:
    """Fixed inputs for looks at one model: the first pictures whose captions differ."""

    def __init__(
        self,
        folders: Sequence[Path],
        config: ModelConfig,
        tokenizer: Tokenizer,
        pictures: int = PICTURES,
    ) -> None:
        chosen = _choose(folders, pictures)
        frames = [read_frame(folder, scene) for folder, scene, _ in chosen]
        captions = tuple(text for _, _, text in chosen)
        grid = config.projector.grid(config.vision)
        labels = [] if grid is None else [_labels(f, s, config, grid) for f, s, _ in chosen]
        clearest = sorted(range(len(labels)), key=lambda i: -sum(k >= 0 for k in labels[i]))
        mapped = tuple(sorted(clearest[:MAPPED]))
        self.subjects = Subjects(
            captions, KINDS, grid, mapped, tuple(tuple(labels[i]) for i in mapped)
        )
        self.thumbnails = [_thumbnail(frame) for frame in frames]
        self._pixels = torch.from_numpy(np.concatenate([config.image.apply(f) for f in frames]))
        self._caption_ids = _caption_ids(tokenizer, captions)
        self._words = Words(tokenizer)

    def look(self, model: EdgeMM, stage: str, step: int, samples: int) -> Look:
        """One look, wherever the model is and in whatever mode; it is left as it was."""
        device = next(model.parameters()).device
        with _inference(model):
            tokens, _, features = model.vision(self._pixels.to(device))
            image = model.image_features(tokens)
            text = model.caption_features(self._caption_ids.to(device))
            projected = model.projector(features[list(self.subjects.mapped)])
            words = Words.embeddings(self._words.kinds, model.lm.get_input_embeddings().weight)
            cosine, word = cosine_similarity(projected, words).max(-1)
        return Look(
            stage=stage,
            step=step,
            samples=samples,
            image=image.float().cpu().numpy(),
            text=text.float().cpu().numpy(),
            word=word.cpu().numpy(),
            cosine=cosine.cpu().numpy(),
        )


class Trace:
    """The looks of a run, in `out/trace`: `per_stage` in each stage, evenly, its end included.

    A look replaces those at later steps: what a new or resumed run has not reached yet.
    """

    def __init__(self, out: Path, probe: Probe, per_stage: int) -> None:
        self.folder, self.probe, self.per_stage = Path(out) / "trace", probe, per_stage
        described = msgspec.json.format(msgspec.json.encode(probe.subjects), indent=1)
        file = self.folder / "samples.json"
        if file.is_file() and file.read_bytes() == described:
            return
        shutil.rmtree(self.folder, ignore_errors=True)  # looks at other pictures
        (self.folder / "pictures").mkdir(parents=True)
        for number, thumbnail in enumerate(probe.thumbnails):
            write_image(self.folder / "pictures" / f"{number:02d}.jpg", thumbnail)
        file.write_bytes(described)

    def due(self, step: int, last: int) -> bool:
        """Whether to look after `step` of the `last` steps of a stage."""
        return step % max(1, -(-last // self.per_stage)) == 0 or step == last

    def record(self, model: EdgeMM, stage: str, step: int, samples_seen: int) -> None:
        """Look at the model and write what was seen; the file appears whole or not at all."""
        look = self.probe.look(model, stage, step, samples_seen)
        for path in self.folder.glob("*.npz"):
            if int(path.stem) > samples_seen:
                path.unlink()
        path = self.folder / f"{samples_seen:09d}.npz"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **vars(look))
        temporary.replace(path)


def start_trace(
    recipe: Recipe, out: Path, config: ModelConfig, tokenizer: Tokenizer
) -> Trace | None:
    """`train.trace` looks over all stages; at pictures of data.val, else of data.train."""
    if not recipe.train.trace:
        return None
    folders = [Path(folder) for folder in recipe.data.val or recipe.data.train]
    stages = sum(stage.steps > 0 for stage in recipe.stages)
    return Trace(out, Probe(folders, config, tokenizer), max(1, recipe.train.trace // stages))


def read_trace(folder: Path) -> tuple[Subjects, list[Frame], list[Look]]:
    """`out/trace` -> subjects, their pictures, the looks in order; UsageError when damaged."""
    path = folder / "samples.json"
    try:
        subjects = msgspec.json.decode(path.read_bytes(), type=Subjects)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}; train again for a new trace") from None
    frames = [
        read_image(folder / "pictures" / f"{number:02d}.jpg")
        for number in range(len(subjects.captions))
    ]
    looks = [_read_look(path) for path in sorted(folder.glob("*.npz"))]
    if not looks:
        raise UsageError(f"{folder} has no looks yet: wait for the first step of the run")
    return subjects, frames, looks


def _read_look(path: Path) -> Look:
    try:
        with np.load(path, allow_pickle=False) as saved:
            found = {name: saved[name] for name in saved.files}
        return Look(
            str(found.pop("stage")), int(found.pop("step")), int(found.pop("samples")), **found
        )
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {error}; delete it") from None


@contextmanager
def _inference(model: EdgeMM) -> Iterator[None]:
    """No gradients, running statistics as they are; bf16 where the trainer has put weights in it.

    Uncompiled: a few pictures do not pay for compiling their shapes.
    """
    learning = [module for module in model.modules() if module.training]
    bf16 = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with (
            torch.no_grad(),
            torch.autocast(device, torch.bfloat16, enabled=bf16),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    finally:
        for module in learning:
            module.training = True


def _choose(folders: Sequence[Path], number: int) -> list[tuple[Path, Scene, str]]:
    """The first scenes with captions that differ, as they are trained: folder, scene, caption."""
    chosen: dict[str, tuple[Path, Scene, str]] = {}
    given = {folder: given_questions(folder) for folder in folders}
    for folder, scene in chain.from_iterable(((f, s) for s in read_scenes(f)) for f in folders):
        texts = [q.answer for q in given[folder].get(scene.id, ()) if q.type == "caption"]
        text = texts[0] if texts else describe(seen_objects(scene))
        if text is not None and text not in chosen and len(chosen) < number:
            chosen[text] = (folder, scene, text)
    if len(chosen) < FEWEST:
        raise UsageError(
            f"{', '.join(map(str, folders))}: {len(chosen)} pictures with captions that differ, "
            f"a trace of the alignment needs {FEWEST}"
        )
    return list(chosen.values())


def _labels(folder: Path, scene: Scene, config: ModelConfig, grid: int) -> list[int]:
    """The kind that each token shows, [T]; -1: nothing clear."""
    segmentation = read_segmentation(folder, scene)
    if segmentation is None:
        segmentation = boxes_as_segmentation(scene)
    cells = cell_targets(segmentation, seen_objects(scene), config.vision.cells)["kinds"]
    found: list[int] = token_labels(torch.from_numpy(cells)[None], grid, len(KINDS))[0].tolist()
    return found


def _thumbnail(frame: Frame) -> Frame:
    scale = min(1.0, THUMBNAIL_PX / max(frame.shape[:2]))
    size = [max(1, round(scale * length)) for length in frame.shape[1::-1]]
    return np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _caption_ids(tokenizer: Tokenizer, captions: Sequence[str]) -> torch.Tensor:
    """[N,C], between <bos> and <eos> as they are trained, padded with 0."""
    first, last = (tokenizer.token_to_id(name) for name in ("<bos>", "<eos>"))
    rows = [torch.tensor([first, *tokenizer.encode(text).ids, last]) for text in captions]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
