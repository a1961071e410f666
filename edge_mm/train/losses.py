"""One forward pass of a batch -> the losses that a stage asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from edge_mm.data.samples import IGNORE, Batch, attention_mask
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.contrastive import clip_loss
from edge_mm.objectives.language import language_loss
from edge_mm.objectives.regions import box_loss, looks_loss, pointing_loss
from edge_mm.objectives.sea import sea_loss
from edge_mm.words import COLORS, KINDS

MIN_CELLS = 3  # fine cells of an object that make it the label of their token


class Words:
    """Token ids of the kind and colour words, for SEA."""

    def __init__(self, tokenizer: Tokenizer):
        self.kinds = [tokenizer.encode(f" {word}").ids for word in KINDS]
        self.colors = [tokenizer.encode(word).ids for word in COLORS]

    @staticmethod
    def embeddings(ids: list[list[int]], table: Tensor) -> Tensor:
        """Mean embedding of each word, [W,D]."""
        return torch.stack([table[word].mean(0) for word in ids])


def compute_losses(
    model: EdgeMM, batch: Batch, names: Mapping[str, float], words: Words
) -> dict[str, Tensor]:
    """The unweighted losses by name, scalars."""
    losses: dict[str, Tensor] = {}
    tokens, fine = model.vision(batch.pixel_values)
    if names.keys() & {"pointing", "boxes", "looks"}:
        keys, boxes, looks = model.regions(tokens, fine)
    if "boxes" in names:
        shown = batch.cell_ids > 0
        losses["boxes"] = box_loss(boxes[shown], batch.cell_boxes[shown])
    if "looks" in names:
        kinds, colors = looks.split((1 + len(KINDS), 1 + len(COLORS)), dim=-1)
        losses["looks"] = looks_loss(kinds.flatten(0, 1), batch.kinds.flatten()) + looks_loss(
            colors.flatten(0, 1), batch.colors.flatten()
        )
    if "contrastive" in names:
        losses["contrastive"] = clip_loss(
            model.image_projection(tokens.mean(1)),
            _caption_features(model, batch.caption_ids),
            model.log_temperature,
        )
    if not names.keys() & {"language", "pointing", "sea"}:
        return losses
    image_embeds = model.projector(tokens)
    if "sea" in names:
        table = model.lm.get_input_embeddings().weight
        grid = model.config.vision.token_grid
        losses["sea"] = sum(
            (
                sea_loss(
                    image_embeds.flatten(0, 1),
                    words.embeddings(ids, table),
                    token_labels(cells, grid, len(ids)).flatten(),
                )
                for ids, cells in ((words.kinds, batch.kinds), (words.colors, batch.colors))
            ),
            start=torch.zeros(()),
        )
    if names.keys() & {"language", "pointing"}:
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        hidden = model.hidden_states(
            model.embed(batch.input_ids, image_embeds).to(dtype),
            attention_mask(batch.segments, dtype),
            batch.position_ids,
        )
        answered = batch.labels != IGNORE
        losses["language"] = language_loss(
            model.lm.lm_head(hidden[answered]), batch.labels[answered], batch.weights[answered]
        )
        if "pointing" in names:
            losses["pointing"] = _pointing(model, batch, hidden, keys)
    return losses


def token_labels(cells: Tensor, grid: int, classes: int) -> Tensor:
    """Labels of fine cells [B,P] (0 background) -> of coarse tokens [B,T] (-1: nothing clear)."""
    batch, side = len(cells), int(cells.shape[1] ** 0.5)
    step = side // grid
    blocks = cells.view(batch, grid, step, grid, step).transpose(2, 3).reshape(batch, grid**2, -1)
    counts = F.one_hot(blocks, classes + 1).sum(2)[..., 1:]
    most, label = counts.max(-1)
    return label.where(most >= MIN_CELLS, -1)


def _caption_features(model: EdgeMM, caption_ids: Tensor) -> Tensor:
    """Captions [B,C] read by the language model alone -> features [B,F] at their last token."""
    hidden = model.hidden_states(model.lm.get_input_embeddings()(caption_ids))
    last = (caption_ids != 0).sum(1) - 1
    return model.text_projection(hidden[torch.arange(len(last)), last])


def _pointing(model: EdgeMM, batch: Batch, hidden: Tensor, keys: Tensor) -> Tensor:
    """The hidden states of <box> and <point> point at the cells of their objects."""
    sample, position, item = batch.pointers.unbind(1)
    counts = torch.bincount(sample, minlength=len(hidden))
    width = int(counts.max()) if len(sample) else 0
    if width == 0:
        return keys.sum() * 0.0
    slot = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
    queries = hidden.new_zeros(len(hidden), width, model.config.regions.key_size)
    queries = queries.index_put(
        (sample, slot), model.region_query(hidden[sample, position]).to(queries.dtype)
    )
    target = torch.zeros(len(hidden), width, keys.shape[1], dtype=torch.bool)
    target[sample, slot] = batch.cell_ids[sample] == item[:, None]
    return pointing_loss(queries, keys.to(queries.dtype), target)
