"""One forward pass of a batch -> the losses that a stage asks for, and how much each one counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edge_mm.data.samples import IGNORE, Batch, attention_mask
from edge_mm.model.checkpoint import tied_weights
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.language import language_loss
from edge_mm.objectives.preference import dpo_loss
from edge_mm.objectives.regions import (
    BACKGROUND,
    box_loss,
    looks_loss,
    mention_loss,
    place_loss,
    pointing_loss,
)
from edge_mm.train.alignment_losses import (
    OWN_PARAMETERS,
    PAIR_LOSSES,
    TOKEN_LOSSES,
    LossParameters,
    Words,
    pair_losses,
    pooled,
    sea_grid,
    sea_labels,
    token_losses,
)
from edge_mm.train.policy import Policy, group_loss, packed_log_probs
from edge_mm.train.recipe import Stage
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import UsageError

DPO_BETA = 0.1
READERS = {"language", "pointing", "mentions", "places", "preference"}  # they need the decoder


def check_losses(stages: Sequence[Stage], model: EdgeMM, shared: bool) -> None:
    """UsageError where a loss does not suit the model, or processes that share one."""
    names = {name for stage in stages if stage.steps for name in stage.losses}
    if names & {"sea", "sea_words"}:
        sea_grid(model)
    if "policy" in names and model.fusion is not None:
        raise UsageError("the loss policy needs early fusion: take it out of the stages' losses")
    if shared and names & OWN_PARAMETERS:
        raise UsageError(
            "siglip and adversarial learn parameters beside the model, which FSDP and DeepSpeed "
            "runs do not save: train with recipes/accelerate/ddp.yaml"
        )


class Losses(nn.Module):
    """The model with its objectives, as one module for the data-parallel wrappers.

    `reference` is the model that preference tuning and policy steps start from, frozen; `own` is
    what losses learn beside the model.
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
        self.own = LossParameters(self.names, model.config.language.hidden_size)
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
            losses["looks"] = pooled(
                [
                    looks_loss(kinds.flatten(0, 1), batch.kinds.flatten()),
                    looks_loss(colors.flatten(0, 1), batch.colors.flatten()),
                ],
                _looks_counts(batch),
            )
        if names & PAIR_LOSSES:
            losses |= pair_losses(model, names, batch, tokens, self.own)
        if not names & (READERS | TOKEN_LOSSES | {"policy"}):
            return losses
        image_embeds = model.projector(features)
        losses |= token_losses(model, names, batch, tokens, image_embeds, self.words, self.own)
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
            if names & {"mentions", "places"}:
                spoken = _spoken_of(model, batch, states)
            if "mentions" in names:
                losses["mentions"] = _mentions(batch, spoken, keys)
            if "places" in names:
                losses["places"] = _places(batch, spoken)
            if "preference" in names:
                losses["preference"] = self._preference(batch, states[-1], image_embeds)
        return losses

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
        "places": lambda: (~torch.cat([batch.mention_places, batch.subject_places]).isnan()).sum(),
        "boxes": lambda: (batch.cell_ids > 0).sum(),
        "looks": lambda: sum(_looks_counts(batch)),
        "sea": lambda: sum((label >= 0).sum() for label in sea_labels(model, batch)),
        "preference": lambda: torch.tensor(len(batch.pairs)),
        **dict.fromkeys(
            (*PAIR_LOSSES, "sea_words", "adversarial", "policy"),
            lambda: torch.tensor(len(batch.input_ids)),
        ),
    }
    return {name: found[name]().float().to(batch.labels.device) for name in names}


def _looks_counts(batch: Batch) -> list[Tensor]:
    """The weights in looks_loss of kinds and of colours."""
    return [torch.where(cells > 0, 1.0, BACKGROUND).sum() for cells in (batch.kinds, batch.colors)]


def reading_weights(model: EdgeMM) -> dict[str, Tensor]:
    """What `read` and the head compute with, by name; a head that is the table is left out."""
    tied = tied_weights(model)
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith(("lm.", "fusion.")) and name not in tied
    }


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


def _pointing(model: EdgeMM, batch: Batch, hidden: Tensor, keys: Tensor) -> Tensor:
    """The hidden states of <box> and <point> point at the cells of their objects."""
    sample, position, item = batch.pointers.unbind(1)
    queries = model.region_query(hidden[sample, position])
    return pointing_loss(_scores(sample, queries, keys), batch.cell_ids[sample] == item[:, None])


# Samples, and of each what the decoder knows of objects: queries, biases, places.
Spoken = list[tuple[Tensor, tuple[Tensor, Tensor, Tensor]]]


def _mentions(batch: Batch, spoken: Spoken, keys: Tensor) -> Tensor:
    """Half-way through the decoder a noun phrase knows its objects, and two layers in three through
    it <assistant> knows what its answer is about: the layers that follow can reason with it."""
    scores = [
        _scores(sample, queries, keys) + bias[:, None] for sample, (queries, bias, _) in spoken
    ]
    return mention_loss(torch.cat(scores), torch.cat([batch.mentioned, batch.subject_cells]))


def _places(batch: Batch, spoken: Spoken) -> Tensor:
    """At the same tokens the decoder knows where a thing is and how large: what "left of" and
    "larger" are made of."""
    places = [places for _, (_, _, places) in spoken]
    return place_loss(torch.cat(places), torch.cat([batch.mention_places, batch.subject_places]))


def _spoken_of(model: EdgeMM, batch: Batch, states: tuple[Tensor, ...]) -> Spoken:
    """What the decoder knows at mentions, then at subjects."""
    layers = len(states) - 1
    found = []
    for head, where, layer in (
        (model.mention_query, batch.mentions, layers // 2),
        (model.subject_query, batch.subjects, 2 * layers // 3),
    ):
        sample, position = where.unbind(1)
        found.append((sample, head(states[layer][sample, position])))
    return found


def _scores(sample: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """queries [M,K] of M samples in order, keys [B,P,K] -> [M,P] dot products."""
    counts = torch.bincount(sample, minlength=len(keys))
    slot = torch.arange(len(sample), device=sample.device) - (counts.cumsum(0) - counts)[sample]
    width = int(counts.max()) if len(sample) else 0
    padded = keys.new_zeros(len(keys), width, keys.shape[-1])
    padded = padded.index_put((sample, slot), queries.to(keys.dtype))
    return (padded @ keys.transpose(1, 2))[sample, slot]
