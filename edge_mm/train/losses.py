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
from edge_mm.objectives.regions import box_loss, looks_loss, mention_loss, pointing_loss
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
    if names.keys() & {"pointing", "mentions", "boxes", "looks"}:
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
    reads = bool(names.keys() & {"language", "pointing", "mentions"})
    if not reads and "sea" not in names:
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
    if reads:
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        states = model.hidden_states(
            model.embed(batch.input_ids, image_embeds).to(dtype),
            attention_mask(batch.segments, dtype),
            batch.position_ids,
        )
        hidden = states[-1]
        answered = batch.labels != IGNORE
        losses["language"] = language_loss(
            model.lm.lm_head(hidden[answered]), batch.labels[answered], batch.weights[answered]
        )
        if "pointing" in names:
            losses["pointing"] = _pointing(model, batch, hidden, keys)
        if "mentions" in names:
            losses["mentions"] = _mentions(model, batch, states, keys)
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
    hidden = model.hidden_states(model.lm.get_input_embeddings()(caption_ids))[-1]
    last = (caption_ids != 0).sum(1) - 1
    return model.text_projection(hidden[torch.arange(len(last)), last])


def _pointing(model: EdgeMM, batch: Batch, hidden: Tensor, keys: Tensor) -> Tensor:
    """The hidden states of <box> and <point> point at the cells of their objects."""
    sample, position, item = batch.pointers.unbind(1)
    queries = model.region_query(hidden[sample, position])
    return pointing_loss(_scores(sample, queries, keys), batch.cell_ids[sample] == item[:, None])


def _mentions(model: EdgeMM, batch: Batch, states: tuple[Tensor, ...], keys: Tensor) -> Tensor:
    """Half-way through the decoder a noun phrase knows its objects, and two layers in three through
    it <assistant> knows what its answer is about: the layers that follow can reason with it."""
    layers = len(states) - 1
    losses = []
    for head, where, cells, layer in (
        (model.mention_query, batch.mentions, batch.mentioned, layers // 2),
        (model.subject_query, batch.subjects, batch.subject_cells, 2 * layers // 3),
    ):
        sample, position = where.unbind(1)
        queries, bias = head(states[layer][sample, position])
        losses.append(mention_loss(_scores(sample, queries, keys) + bias[:, None], cells))
    return losses[0] + losses[1]


def _scores(sample: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """queries [M,K] of M samples in order, keys [B,P,K] -> [M,P] dot products."""
    counts = torch.bincount(sample, minlength=len(keys))
    slot = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
    width = int(counts.max()) if len(sample) else 0
    padded = keys.new_zeros(len(keys), width, keys.shape[-1])
    padded = padded.index_put((sample, slot), queries.to(keys.dtype))
    return (padded @ keys.transpose(1, 2))[sample, slot]
