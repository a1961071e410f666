"""A policy step: the model says several answers to a question and learns from what each is worth.

The reward is verifiable (objectives.rewards), and a box is the one that the runtime would report:
where the region head gives the boxes, they replace the location tokens before an answer is judged.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from tokenizers import Tokenizer
from torch import Tensor

from edge_mm.data.samples import IGNORE, Batch
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.objectives.language import token_log_probs
from edge_mm.objectives.policy import group_advantages, policy_loss
from edge_mm.objectives.rewards import reward
from edge_mm_runtime.grounding import location_tokens

GROUP = 6  # answers to a question
LONGEST = 32  # tokens of an answer
CLIP, KL = 0.2, 0.02
IGNORED = torch.tensor([IGNORE])


class Policy:
    """Samples and scores answers; `tokenizer` is the checkpoint's."""

    def __init__(self, tokenizer: Tokenizer, bins: int):
        self.tokenizer, self.bins = tokenizer, bins
        self.stop = tokenizer.token_to_id("<eos>")
        self.box, self.point = tokenizer.token_to_id("<box>"), tokenizer.token_to_id("<point>")
        self.places = location_tokens(bins)

    def answers(self, model: EdgeMM, batch: Batch, image_embeds: Tensor) -> list[list[list[int]]]:
        """GROUP sampled answers to the first question of every row, as token ids with <eos>.

        The random numbers belong to the batch, so that a resumed run draws the same ones.
        """
        found = []
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(int(batch.input_ids.sum()))
            for row in range(len(batch.input_ids)):
                prompt = batch.input_ids[row, : _answer_start(batch, row)]
                said = model.lm.generate(
                    inputs_embeds=model.embed(prompt[None], image_embeds[row : row + 1]).float(),
                    attention_mask=torch.ones_like(prompt)[None],
                    do_sample=True,
                    num_return_sequences=GROUP,
                    max_new_tokens=LONGEST,
                    eos_token_id=self.stop,
                    pad_token_id=self.stop,
                )
                found.append([self._until_stop(ids) for ids in said.tolist()])
        return found

    def _until_stop(self, ids: list[int]) -> list[int]:
        return ids[: ids.index(self.stop) + 1] if self.stop in ids else ids

    def pack(self, batch: Batch, answers: list[list[list[int]]]) -> Batch:
        """The first question of every row once for each of its answers, as segments 1..GROUP."""
        rows = []
        for row, group in enumerate(answers):
            start, end = int((batch.segments[row] == 0).sum()), _answer_start(batch, row)
            prefix, asked = batch.input_ids[row, :start], batch.input_ids[row, start:end]
            columns = [prefix], [torch.arange(start)], [torch.zeros(start)], [IGNORED.expand(start)]
            for number, answer in enumerate(group, 1):
                said = torch.tensor(answer)
                length = len(asked) + len(said)
                columns[0].extend([asked, said.to(asked.device)])
                columns[1].append(start + torch.arange(length))
                columns[2].append(torch.full((length,), float(number)))
                columns[3].extend([IGNORED.expand(len(asked) - 1), said, IGNORED])
            rows.append([torch.cat(column).cpu().long() for column in columns])
        ids, positions, segments, labels = (
            torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=fill)
            for column, fill in zip(zip(*rows, strict=True), (0, 0, -1, IGNORE), strict=True)
        )
        return replace(
            batch, input_ids=ids, position_ids=positions, segments=segments, labels=labels
        ).to(batch.input_ids.device)

    def rewards(
        self, model: EdgeMM, batch: Batch, answers: list[list[list[int]]], packed: Batch,
        hidden: Tensor, keys: Tensor, boxes: Tensor,
    ) -> Tensor:  # fmt: skip
        """What every answer is worth, [B,GROUP]; hidden [B,L,D] of `packed`, boxes [B,P,6]."""
        worth = torch.zeros(len(answers), GROUP)
        for row, group in enumerate(answers):
            start = _answer_start(batch, row)
            segment = batch.segments[row, start]
            right = batch.labels[row][
                (batch.segments[row] == segment) & (batch.labels[row] != IGNORE)
            ]
            wanted = self._text(right.tolist())
            for number, answer in enumerate(group):
                at = (packed.segments[row] == number + 1).nonzero()[-len(answer) :, 0]
                if model.config.grounding.box_source == "head":
                    answer = self._with_regions(
                        model, answer, hidden[row, at], keys[row], boxes[row]
                    )
                worth[row, number] = reward(
                    batch.types[row][0], wanted, self._text(answer), self.bins
                )
        return worth

    def _with_regions(
        self, model: EdgeMM, answer: list[int], hidden: Tensor, keys: Tensor, boxes: Tensor
    ) -> list[int]:
        """An answer with the places of the region head in the place of its location tokens."""
        said = list(answer)
        for index, token in enumerate(answer):
            first, count = {self.box: (0, 4), self.point: (4, 2)}.get(token, (0, 0))
            if count and index + count < len(said):
                query = model.region_query(hidden[index]).to(keys.dtype)
                place = boxes[(keys @ query).argmax()][first : first + count]
                bins = (place.clamp(0, 1) * self.bins).long().clamp(max=self.bins - 1)
                said[index + 1 : index + 1 + count] = [
                    self.tokenizer.token_to_id(self.places[b]) for b in bins.tolist()
                ]
        return said

    def _text(self, ids: list[int]) -> str:
        kept = [i for i in ids if i != self.stop]
        return self.tokenizer.decode(kept, skip_special_tokens=False)


def _answer_start(batch: Batch, row: int) -> int:
    """Index of the first answer token of the row's first question."""
    return int((batch.labels[row] != IGNORE).nonzero()[0]) + 1


def group_loss(
    log_probs: Tensor, reference_log_probs: Tensor, packed: Batch, worth: Tensor
) -> Tensor:
    """GRPO on one fresh group a row: token log-probabilities [B,L] of `packed`, worth [B,GROUP]."""
    groups = torch.arange(1, GROUP + 1, device=packed.segments.device)
    mask = (packed.labels != IGNORE)[:, None] & (packed.segments[:, None] == groups[:, None])
    wide = log_probs[:, None].expand_as(mask)
    return policy_loss(
        wide,
        wide,
        group_advantages(worth.to(wide.device)),
        mask,
        CLIP,
        reference_log_probs[:, None].expand_as(mask),
        KL,
    )


def packed_log_probs(model: EdgeMM, hidden: Tensor, packed: Batch) -> Tensor:
    """Log-probability of every answer token, [B,L]; 0 elsewhere."""
    answered = packed.labels != IGNORE
    found = token_log_probs(model.logits(hidden[answered])[None], packed.labels[answered][None])
    return found.new_zeros(answered.shape).masked_scatter(answered, found[0])
