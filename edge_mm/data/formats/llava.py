"""LLaVA conversations: a JSON list of {id, image, conversations: [{from, value}, ...]}.

https://github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from edge_mm.data.formats.record import Record, Skips, decode, decode_each
from edge_mm.demo.questions import Question

ASKS, ANSWERS = ("human", "user"), ("gpt", "assistant")

_TAG = re.compile(r"</?[a-z]+\d*>")
_NUMBER = r"-?\d*\.?\d+"
_COORDINATES = re.compile(rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{3}}\s*\]")


class _Turn(msgspec.Struct, frozen=True):
    speaker: str = msgspec.field(name="from")
    value: str


class _Row(msgspec.Struct, frozen=True):
    conversations: list[_Turn]
    image: str | list[str] | None = None
    id: str | int | None = None


def read_llava(path: Path, skips: Skips) -> Iterator[Record]:
    """One record a conversation about one picture; a picture may come again.

    Each turn becomes a question of its own, as the runtime asks it: without the turns before it.
    Turns with boxes in brackets are skipped and counted, because they count from the corner of a
    padded square in some data sets and of the picture in others; so are turns with tags.
    UsageError when the file is not a JSON list.
    """
    rows = decode(path, list[msgspec.Raw], "a JSON list of conversations")
    for index, row in decode_each(rows, _Row, "conversation", skips):
        where = f"number {index}, id {row.id}"
        if not row.image:
            skips.add("conversation without a picture", where)
        elif not isinstance(row.image, str):
            skips.add("conversation about several pictures", where)
        elif not _alternate(turns := [t for t in row.conversations if t.speaker != "system"]):
            skips.add("conversation that does not alternate human, gpt", where)
        elif questions := tuple(_questions(turns, where, skips)):
            yield Record(row.image, questions=questions)


def _alternate(turns: list[_Turn]) -> bool:
    speakers = [turn.speaker.lower() for turn in turns]
    return (
        len(speakers) >= 2
        and len(speakers) % 2 == 0
        and all(speaker in ASKS for speaker in speakers[::2])
        and all(speaker in ANSWERS for speaker in speakers[1::2])
    )


def _questions(turns: list[_Turn], where: str, skips: Skips) -> Iterator[Question]:
    for human, gpt in list(pairwise(turns))[::2]:
        text, answer = human.value.replace("<image>", "").strip(), gpt.value.strip()
        if not text or not answer:
            skips.add("turn without text", where)
        elif _COORDINATES.search(text) or _COORDINATES.search(answer):
            skips.add("turn with a box in brackets: give boxes as COCO instead", where)
        elif _TAG.search(text) or _TAG.search(answer):
            skips.add("turn with tags in its text", where)
        else:
            yield Question(text, answer=answer)
