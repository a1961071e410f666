"""The losses of a stage that align pictures with words by their features, before any answer.

contrastive, info_nce,          a picture and its caption, among those of all processes
siglip, hard_negatives
sea, sea_words, adversarial     projected image tokens and embeddings of the language model
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from edge_mm.data.samples import Batch
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.adversarial import ModalityDiscriminator, adversarial_loss
from edge_mm.objectives.contrastive import MAX_SCALE, clip_loss, info_nce
from edge_mm.objectives.negatives import hardest
from edge_mm.objectives.sea import candidate_words, sample_labels, sea_loss
from edge_mm.objectives.siglip import BIAS, LOG_TEMPERATURE, siglip_loss
from edge_mm.objectives.similarity import cosine_similarity
from edge_mm.train.distributed import everyones, gather
from edge_mm.words import COLORS, KINDS
from edge_mm_runtime.errors import UsageError

PAIR_LOSSES = {"contrastive", "info_nce", "siglip", "hard_negatives"}
TOKEN_LOSSES = {"sea", "sea_words", "adversarial"}
OWN_PARAMETERS = {"siglip", "adversarial"}  # losses that have some, see LossParameters

HARDEST = 8  # captions that a picture must not choose
MIN_CELLS = 3  # fine cells of an object that make it the label of their token
CANDIDATES, TEACHER_TEMPERATURE = 5, 0.1  # words that a token may be drawn to, how evenly
REVERSAL = 1.0  # on the discriminator's gradient as it reaches the projector


class Words:
    """The kind and colour words as SEA compares tokens with them."""

    def __init__(self, tokenizer: Tokenizer):
        self.kinds = [tokenizer.encode(f" {word}").ids for word in KINDS]
        self.colors = [tokenizer.encode(word).ids for word in COLORS]
        first, last = (tokenizer.token_to_id(name) for name in ("<bos>", "<eos>"))
        captions = [[first, *tokenizer.encode(word).ids, last] for word in (*KINDS, *COLORS)]
        self.captions = nn.utils.rnn.pad_sequence(  # [W,C] as Batch.caption_ids
            [torch.tensor(ids) for ids in captions], batch_first=True
        )

    @staticmethod
    def embeddings(ids: list[list[int]], table: Tensor) -> Tensor:
        """Mean embedding of each word, [W,D]."""
        return torch.stack([table[word].mean(0) for word in ids])


class LossParameters(nn.Module):
    """What siglip and adversarial learn beside the model; part of a run, never of a checkpoint."""

    def __init__(self, names: Collection[str], hidden_size: int):
        super().__init__()
        if "siglip" in names:
            self.log_temperature = nn.Parameter(torch.tensor(LOG_TEMPERATURE))
            self.bias = nn.Parameter(torch.tensor(BIAS))
        if "adversarial" in names:
            with torch.random.fork_rng():  # the same one wherever in a run its stage begins
                torch.manual_seed(0)
                self.discriminator = ModalityDiscriminator(hidden_size)


def pair_losses(
    model: EdgeMM, names: Collection[str], batch: Batch, tokens: Tensor, own: LossParameters
) -> dict[str, Tensor]:
    """Those of PAIR_LOSSES that are asked for, of vision tokens [B,N,D] and the captions."""
    image = gather(model.image_features(tokens))
    text = gather(model.caption_features(batch.caption_ids))
    scale = model.log_temperature
    found = {
        "contrastive": lambda: clip_loss(image, text, scale),
        "info_nce": lambda: info_nce(image, text, scale),
        "siglip": lambda: siglip_loss(image, text, own.log_temperature, own.bias),
        "hard_negatives": lambda: hard_negatives_loss(
            image, text, scale, same_rows(batch.caption_ids)
        ),
    }
    return {name: loss() for name, loss in found.items() if name in names}


def token_losses(
    model: EdgeMM,
    names: Collection[str],
    batch: Batch,
    tokens: Tensor,
    image_embeds: Tensor,
    words: Words,
    own: LossParameters,
) -> dict[str, Tensor]:
    """Those of TOKEN_LOSSES that are asked for, of vision tokens [B,N,D] projected to [B,T,E]."""
    found = {
        "sea": lambda: _sea(model, batch, image_embeds, words),
        "sea_words": lambda: _sea_words(model, batch, tokens, image_embeds, words),
        "adversarial": lambda: _adversarial(model, batch, image_embeds, own.discriminator),
    }
    return {name: loss() for name, loss in found.items() if name in names}


def hard_negatives_loss(
    image: Tensor, text: Tensor, log_temperature: Tensor, same: Tensor
) -> Tensor:
    """InfoNCE of image [B,D] with its own row of text and the HARDEST wrong ones only -> scalar.

    `same` bool [B,B]: rows whose captions are equal, which are not wrong for each other.
    """
    cosine = cosine_similarity(image, text)
    wrong = hardest(cosine, HARDEST, same)
    scale = log_temperature.float().exp().clamp(max=MAX_SCALE)
    right = scale * cosine.diagonal()[:, None]
    others = scale * cosine.gather(1, wrong.clamp(min=0))
    logits = torch.cat([right, others.masked_fill(wrong < 0, float("-inf"))], 1)
    return F.cross_entropy(logits, torch.zeros_like(wrong[:, 0]))


def same_rows(caption_ids: Tensor) -> Tensor:
    """Captions [B,C] of this process, padded with 0 -> which of all processes' are equal."""
    longest = max(width for (width,) in everyones([caption_ids.shape[1]], caption_ids.device))
    ids = gather(F.pad(caption_ids, (0, longest - caption_ids.shape[1])))
    _, number = ids.unique(dim=0, return_inverse=True)
    return number[:, None] == number


def _sea(model: EdgeMM, batch: Batch, image_embeds: Tensor, words: Words) -> Tensor:
    """Labels of the renderer, kinds and colours each among their own words."""
    table = model.lm.get_input_embeddings().weight
    labels = sea_labels(model, batch)
    kinds_and_colors = [
        sea_loss(image_embeds.flatten(0, 1), words.embeddings(ids, table), label)
        for ids, label in zip((words.kinds, words.colors), labels, strict=True)
    ]
    return pooled(kinds_and_colors, [(label >= 0).sum() for label in labels])


def _sea_words(
    model: EdgeMM, batch: Batch, tokens: Tensor, image_embeds: Tensor, words: Words
) -> Tensor:
    """As published: what the contrastive encoder finds a token's patches most like is drawn from.

    The random numbers belong to the batch, so that a resumed run draws the same ones.
    """
    with torch.no_grad():
        indices, weights = candidate_words(
            model.image_projection(_on_grid(tokens, sea_grid(model))).flatten(0, 1),
            model.caption_features(words.captions.to(tokens.device)),
            CANDIDATES,
            TEACHER_TEMPERATURE,
        )
    generator = torch.Generator(weights.device).manual_seed(int(batch.input_ids.sum()))
    table = model.lm.get_input_embeddings().weight
    return sea_loss(
        image_embeds.flatten(0, 1),
        words.embeddings([*words.kinds, *words.colors], table),
        sample_labels(indices, weights, generator),
    )


def _adversarial(
    model: EdgeMM, batch: Batch, image_embeds: Tensor, discriminator: nn.Module
) -> Tensor:
    """Image tokens against as many text embeddings of the same row; only the former should move."""
    ids = _spread_text(batch, model.config.language.vocab_size, image_embeds.shape[1])
    text = model.lm.get_input_embeddings()(ids).detach()
    return adversarial_loss(image_embeds.flatten(0, 1), text.flatten(0, 1), discriminator, REVERSAL)


def _spread_text(batch: Batch, vocabulary: int, number: int) -> Tensor:
    """So many ids of the text of every row, evenly spread over it, [B,number].

    All rows weigh the same then, in whatever micro-batches they come.
    """
    is_text = (batch.input_ids < vocabulary) & (batch.segments >= 0)
    texts = is_text.int().argsort(dim=1, descending=True, stable=True)  # of each row, then the rest
    spread = torch.arange(number, device=texts.device) * is_text.sum(1, keepdim=True) // number
    return batch.input_ids.gather(1, texts.gather(1, spread))


def _on_grid(tokens: Tensor, grid: int) -> Tensor:
    """Vision tokens [B,N,D] of a square -> means of equal blocks, [B,grid*grid,D]."""
    batch, number, width = tokens.shape
    step = int(number**0.5) // grid
    return tokens.view(batch, grid, step, grid, step, width).mean((2, 4)).flatten(1, 2)


def sea_labels(model: EdgeMM, batch: Batch) -> list[Tensor]:
    """Kind and colour of every token, [B*T] each; -1 where SEA has nothing to say."""
    grid = sea_grid(model)
    return [
        token_labels(cells, grid, len(words)).flatten()
        for cells, words in ((batch.kinds, KINDS), (batch.colors, COLORS))
    ]


def sea_grid(model: EdgeMM) -> int:
    """Side of the square of image tokens, for SEA labels them by place; UsageError without one."""
    grid: int | None = model.projector.grid
    if grid is None:
        raise UsageError(
            "sea needs a projector whose tokens have places (linear, mlp, pixel_shuffle, "
            f"multi_scale), this model's is a {model.config.projector.kind}: take sea and "
            "sea_words out of the stages' losses"
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


def pooled(means: list[Tensor], over: list[Tensor]) -> Tensor:
    """Two means over so many each -> their sum, weighing every one of them the same."""
    whole = torch.stack(over).sum().clamp(min=1)
    return len(means) * torch.stack([m * n / whole for m, n in zip(means, over, strict=True)]).sum()
