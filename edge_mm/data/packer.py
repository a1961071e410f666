"""Questions about a picture -> one row of tokens with what each of them should know.

    <bos> <image>*T | <user> q1 <assistant> a1 <eos> | <user> q2 <assistant> a2 <eos> | ...

Every question sees the prefix and itself, never another question (`segments`, 0 is the prefix), and
its positions go on from the prefix, just as the runtime asks it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from edge_mm.data.mentions import mentions
from edge_mm.data.questions import Question
from edge_mm.data.scenes import Seen
from edge_mm.model.config import ModelConfig

IGNORE = -100
LOCATION_WEIGHT = 0.2  # of a location token in the language loss: the region head does the work


@dataclass(slots=True)
class PackedRow:
    """L tokens of one picture; what the fields mean, see `samples.Batch`."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    labels: list[int]
    weights: list[float]
    pointers: list[tuple[int, int]]
    mentions: list[tuple[int, tuple[int, ...]]]  # position, object ids
    subjects: list[tuple[int, tuple[int, ...]]]
    types: list[str]
    pairs: list[tuple[int, int]]  # segments


class Packer:
    """Questions -> one token row with segments, labels and pointers."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig):
        self.tokenizer, self.config = tokenizer, config
        ids = {
            name: tokenizer.token_to_id(name)
            for name in ("<bos>", "<eos>", "<user>", "<assistant>", "<box>", "<point>", "<loc000>")
        }
        self.ids = ids
        self.locations = range(ids["<loc000>"], ids["<loc000>"] + config.grounding.bins)
        first = config.language.vocab_size
        self.prefix = [ids["<bos>"], *range(first, first + config.image_tokens)]

    def pack(
        self,
        questions: Sequence[Question],
        limit: int,
        view: Sequence[Seen] = (),
        rejections: Sequence[str | None] = (),
    ) -> PackedRow:
        """As many questions as fit; a question with a rejected answer takes two segments."""
        start = len(self.prefix)
        row = PackedRow(
            ids=list(self.prefix),
            positions=list(range(start)),
            segments=[0] * start,
            labels=[IGNORE] * start,
            weights=[0.0] * start,
            pointers=[],
            mentions=[],
            subjects=[],
            types=[],
            pairs=[],
        )
        for question, wrong in zip(questions, rejections or [None] * len(questions), strict=True):
            answers = [question.answer] if wrong is None else [question.answer, wrong]
            tokens = [self._tokens(question.text, answer) for answer in answers]
            if len(row.ids) + sum(len(asked) + len(said) for asked, said in tokens) > limit:
                continue
            number = row.segments[-1] + 1
            row.types += [question.type] * len(answers)
            self._append(row, question, view, *tokens[0])
            if wrong is not None:
                self._append_segment(row, *tokens[1], learn=False)
                row.pairs.append((number, number + 1))
        return row

    def _tokens(self, text: str, answer: str) -> tuple[list[int], list[int]]:
        asked = [self.ids["<user>"], *self.tokenizer.encode(text).ids, self.ids["<assistant>"]]
        return asked, [*self.tokenizer.encode(answer).ids, self.ids["<eos>"]]

    def _append(
        self,
        row: PackedRow,
        question: Question,
        view: Sequence[Seen],
        asked: list[int],
        said: list[int],
    ) -> None:
        """A question with its right answer, and all that the decoder should know on the way."""
        at = len(row.ids)
        self._append_segment(row, asked, said, learn=True)
        shown = iter(question.objects)
        row.pointers += [
            (at + len(asked) + i, next(shown))
            for i, token in enumerate(said)
            if token in (self.ids["<box>"], self.ids["<point>"])
        ]
        text = self.tokenizer.encode(question.text)
        for mention in mentions(question.text, view):
            last = text.char_to_token(mention.end - 1)
            if last is not None:
                row.mentions.append((at + 1 + last, mention.objects))
        if question.about is not None:
            row.subjects.append((at + len(asked) - 1, question.about))

    def _append_segment(
        self, row: PackedRow, asked: list[int], said: list[int], learn: bool
    ) -> None:
        start, length = len(self.prefix), len(asked) + len(said)
        row.ids += asked + said
        row.positions += range(start, start + length)
        row.segments += [row.segments[-1] + 1] * length
        row.labels += [IGNORE] * (len(asked) - 1) + said + [IGNORE]
        weights = [LOCATION_WEIGHT if token in self.locations else 1.0 for token in said]
        # Between all tokens alike and all answers alike: a plan of twenty must not drown a "yes".
        scale = learn / math.sqrt(sum(weights))
        row.weights += [0.0] * (len(asked) - 1) + [scale * weight for weight in weights] + [0.0]
