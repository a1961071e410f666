"""One forward pass of a batch -> the losses that a stage asks for, and how much each one counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_mm.data.samples import IGNORE, Batch, attention_mask
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.contrastive import clip_loss
from edge_mm.objectives.language import language_loss
from edge_mm.objectives.preference import dpo_loss
from edge_mm.objectives.regions import (
    BACKGROUND,
    box_loss,
    looks_loss,
    mention_loss,
    pointing_loss,
)
from edge_mm.objectives.sea import sea_loss
from edge_mm.train.distributed import gather
from edge_mm.train.policy import Policy, group_loss, packed_log_probs
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import UsageError

MIN_CELLS = 3  # fine cells of an object that make it the label of their token
DPO_BETA = 0.1
READERS = {"language", "pointing", "mentions", "preference"}  # losses that need the decoder


class Words:
    """Token ids of the kind and colour words, for SEA."""

    def __init__(self, tokenizer: Tokenizer):
        self.kinds = [tokenizer.encode(f" {word}").ids for word in KINDS]
        self.colors = [tokenizer.encode(word).ids for word in COLORS]

    @staticmethod
    def embeddings(ids: list[list[int]], table: Tensor) -> Tensor:
        """Mean embedding of each word, [W,D]."""
        return torch.stack([table[word].mean(0) for word in ids])


class Losses(nn.Module):
    """The model with its objectives, as one module for the data-parallel wrappers.

    `reference` is the model that preference tuning and policy steps start from, frozen.
    """

    def __init__(
        self,
        model: EdgeMM,
        names: Mapping[str, float],
        words: Words,
        reference: EdgeMM | None = None,
        policy: Policy | None = None,
    ):
        super().__init__()
        self.policy = policy
        self.model, self.names, self.words = model, set(names), words
        self._reference = [reference]  # in a list: not a part of this module

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Batch -> the unweighted losses by name, each a mean over what `counts` counts."""
        model, names, losses = self.model, self.names, {}
        tokens, fine, features = model.vision(batch.pixel_values)
        if names & {"pointing", "mentions", "boxes", "looks", "policy"}:
            keys, boxes, looks = model.regions(tokens, fine)
        if "boxes" in names:
            shown = batch.cell_ids > 0
            losses["boxes"] = box_loss(boxes[shown], batch.cell_boxes[shown])
        if "looks" in names:
            kinds, colors = looks.split((1 + len(KINDS), 1 + len(COLORS)), dim=-1)
            losses["looks"] = _pooled(
                [
                    looks_loss(kinds.flatten(0, 1), batch.kinds.flatten()),
                    looks_loss(colors.flatten(0, 1), batch.colors.flatten()),
                ],
                _looks_counts(batch),
            )
        if "contrastive" in names:
            losses["contrastive"] = clip_loss(
                gather(model.image_features(tokens)),
                gather(model.caption_features(batch.caption_ids)),
                model.log_temperature,
            )
        if not names & {*READERS, "sea", "policy"}:
            return losses
        image_embeds = model.projector(features)
        if "sea" in names:
            losses["sea"] = self._sea(image_embeds, batch)
        if "policy" in names:
            losses["policy"] = self._policy(batch, image_embeds, keys, boxes)
        if names & READERS:
            states = read(model, batch, image_embeds)
            answered = (batch.labels != IGNORE) & (batch.weights > 0)
            if "language" in names:
                losses["language"] = language_loss(
                    model.logits(states[-1][answered]),
                    batch.labels[answered],
                    batch.weights[answered],
                )
            if "pointing" in names:
                losses["pointing"] = _pointing(model, batch, states[-1], keys)
            if "mentions" in names:
                losses["mentions"] = _mentions(model, batch, states, keys)
            if "preference" in names:
                losses["preference"] = self._preference(batch, states[-1], image_embeds)
        return losses

    def _sea(self, image_embeds: Tensor, batch: Batch) -> Tensor:
        table = self.model.lm.get_input_embeddings().weight
        labels = _sea_labels(self.model, batch)
        kinds_and_colors = [
            sea_loss(image_embeds.flatten(0, 1), self.words.embeddings(ids, table), label)
            for ids, label in zip((self.words.kinds, self.words.colors), labels, strict=True)
        ]
        return _pooled(kinds_and_colors, [(label >= 0).sum() for label in labels])

    def _policy(self, batch: Batch, image_embeds: Tensor, keys: Tensor, boxes: Tensor) -> Tensor:
        (reference,), policy = self._reference, self.policy
        assert reference is not None and policy is not None
        said = policy.answers(self.model, batch, image_embeds)
        packed = policy.pack(batch, said)
        hidden = read(self.model, packed, image_embeds)[-1]
        with torch.no_grad():
            before = read(reference, packed, image_embeds)[-1]
            old = packed_log_probs(reference, before, packed)
            worth = policy.rewards(self.model, batch, said, packed, hidden, keys, boxes)
        return group_loss(packed_log_probs(self.model, hidden, packed), old, packed, worth)

    def _preference(self, batch: Batch, hidden: Tensor, image_embeds: Tensor) -> Tensor:
        (reference,) = self._reference
        assert reference is not None
        with torch.no_grad():
            before = read(reference, batch, image_embeds)[-1]
            old = segment_log_probs(reference, before, batch)
        new = segment_log_probs(self.model, hidden, batch)
        sample, chosen, rejected = batch.pairs.unbind(1)
        loss, _, _ = dpo_loss(
            new[sample, chosen],
            new[sample, rejected],
            old[sample, chosen],
            old[sample, rejected],
            DPO_BETA,
        )
        return loss


def counts(batch: Batch, names: Mapping[str, float], model: EdgeMM) -> dict[str, Tensor]:
    """Over how much each loss of a batch is a mean, so that its parts add up to the whole."""
    found = {
        "language": lambda: batch.weights.sum(),
        "pointing": lambda: (
            (batch.cell_ids[batch.pointers[:, 0]] == batch.pointers[:, 2:]).any(-1).sum()
        ),
        "mentions": lambda: torch.tensor(len(batch.mentions) + len(batch.subjects)),
        "boxes": lambda: (batch.cell_ids > 0).sum(),
        "looks": lambda: sum(_looks_counts(batch)),
        "sea": lambda: sum((label >= 0).sum() for label in _sea_labels(model, batch)),
        "contrastive": lambda: torch.tensor(len(batch.caption_ids)),
        "preference": lambda: torch.tensor(len(batch.pairs)),
        "policy": lambda: torch.tensor(len(batch.input_ids)),
    }
    return {name: found[name]().float().to(batch.labels.device) for name in names}


def _pooled(means: list[Tensor], over: list[Tensor]) -> Tensor:
    """Two means over so many each -> their sum, weighing every one of them the same."""
    whole = torch.stack(over).sum().clamp(min=1)
    return len(means) * torch.stack([m * n / whole for m, n in zip(means, over, strict=True)]).sum()


def _looks_counts(batch: Batch) -> list[Tensor]:
    """The weights in looks_loss of kinds and of colours."""
    return [torch.where(cells > 0, 1.0, BACKGROUND).sum() for cells in (batch.kinds, batch.colors)]


def _sea_labels(model: EdgeMM, batch: Batch) -> list[Tensor]:
    """Kind and colour of every token, [B*T] each; -1 where SEA has nothing to say."""
    grid = sea_grid(model)
    return [
        token_labels(cells, grid, len(words)).flatten()
        for cells, words in ((batch.kinds, KINDS), (batch.colors, COLORS))
    ]


def read(model: EdgeMM, batch: Batch, image_embeds: Tensor) -> tuple[Tensor, ...]:
    """The decoder's states over the packed rows, see EdgeMM.hidden_states."""
    device = image_embeds.device.type
    dtype = torch.bfloat16 if torch.is_autocast_enabled(device) else torch.float32
    memory = model.image_memory(image_embeds)
    return model.hidden_states(
        model.embed(batch.input_ids, memory).to(dtype),
        attention_mask(batch.segments, dtype),
        batch.position_ids,
        memory,
    )


def segment_log_probs(model: EdgeMM, hidden: Tensor, batch: Batch) -> Tensor:
    """Log-probability of the answer in each segment, [B,S] with S segments a row at most."""
    log_probs = packed_log_probs(model, hidden, batch)
    width = int(batch.segments.max()) + 1
    segments = batch.segments.clamp(min=0)  # padding, which adds 0
    return log_probs.new_zeros(len(hidden), width).scatter_add(1, segments, log_probs)


def sea_grid(model: EdgeMM) -> int:
    """Side of the square of image tokens, for SEA labels them by place; UsageError without one."""
    grid: int | None = model.projector.grid
    if grid is None:
        raise UsageError(
            "sea needs a projector whose tokens have places (linear, mlp, pixel_shuffle, "
            f"multi_scale), this model's is a {model.config.projector.kind}: take sea out of the "
            "stages' losses"
        )
    return grid


def token_labels(cells: Tensor, grid: int, classes: int) -> Tensor:
    """Labels of fine cells [B,P] (0 background) -> of coarse tokens [B,T] (-1: nothing clear)."""
    batch, side = len(cells), int(cells.shape[1] ** 0.5)
    step = side // grid
    blocks = cells.view(batch, grid, step, grid, step).transpose(2, 3).reshape(batch, grid**2, -1)
    counts = F.one_hot(blocks, classes + 1).sum(2)[..., 1:]
    most, label = counts.max(-1)
    return label.where(most >= MIN_CELLS, -1)


def _pointing(model: EdgeMM, batch: Batch, hidden: Tensor, keys: Tensor) -> Tensor:
    """The hidden states of <box> and <point> point at the cells of their objects."""
    sample, position, item = batch.pointers.unbind(1)
    queries = model.region_query(hidden[sample, position])
    return pointing_loss(_scores(sample, queries, keys), batch.cell_ids[sample] == item[:, None])


def _mentions(model: EdgeMM, batch: Batch, states: tuple[Tensor, ...], keys: Tensor) -> Tensor:
    """Half-way through the decoder a noun phrase knows its objects, and two layers in three through
    it <assistant> knows what its answer is about: the layers that follow can reason with it."""
    layers = len(states) - 1
    scores = []
    for head, where, layer in (
        (model.mention_query, batch.mentions, layers // 2),
        (model.subject_query, batch.subjects, 2 * layers // 3),
    ):
        sample, position = where.unbind(1)
        queries, bias = head(states[layer][sample, position])
        scores.append(_scores(sample, queries, keys) + bias[:, None])
    return mention_loss(torch.cat(scores), torch.cat([batch.mentioned, batch.subject_cells]))


def _scores(sample: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """queries [M,K] of M samples in order, keys [B,P,K] -> [M,P] dot products."""
    counts = torch.bincount(sample, minlength=len(keys))
    slot = torch.arange(len(sample), device=sample.device) - (counts.cumsum(0) - counts)[sample]
    width = int(counts.max()) if len(sample) else 0
    padded = keys.new_zeros(len(keys), width, keys.shape[-1])
    padded = padded.index_put((sample, slot), queries.to(keys.dtype))
    return (padded @ keys.transpose(1, 2))[sample, slot]
