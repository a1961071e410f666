"""What every reader yields, and the count of what it had to leave out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from edge_mm.data.scenes import SceneObject
from edge_mm.demo.questions import Question
from edge_mm_runtime.errors import UsageError

Outline = list[list[float]]  # polygons, each x1 y1 x2 y2 ... in pixels

_Struct = TypeVar("_Struct")


class Record(msgspec.Struct, frozen=True):
    """One picture of a source, and what the source says about it.

    image      file name within the folder of pictures
    size       width and height in pixels; None where only the picture itself knows
    outlines   object id -> polygons around it, where the source has them
    questions  as in `questions.json`: `objects` are indices into the record's objects
    """

    image: str
    size: tuple[int, int] | None = None
    objects: tuple[SceneObject, ...] = ()
    outlines: dict[int, Outline] = {}
    questions: tuple[Question, ...] = ()


class Skips:
    """What was left out: how many for each reason, and where the first of them was."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, reason: str, where: str) -> None:
        self.counts[reason] += 1
        self._first.setdefault(reason, where)

    def lines(self) -> list[str]:
        """For people: a line a reason, the most frequent first."""
        return [
            f"left out {count}: {reason} (first: {self._first[reason]})"
            for reason, count in self.counts.most_common()
        ]


def decode(path: Path, form: type[_Struct], what: str) -> _Struct:
    """A JSON file as `form`; UsageError says that `path` is not `what` and why."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=form)
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not {what}: {error}") from None


def decode_each(
    rows: list[msgspec.Raw], form: type[_Struct], name: str, skips: Skips
) -> Iterator[tuple[int, _Struct]]:
    """The rows of a list with their indices; one that is not a `form` is skipped and counted."""
    decoder = msgspec.json.Decoder(form)
    for index, row in enumerate(rows):
        try:
            yield index, decoder.decode(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            skips.add(f"{name} that cannot be read", f"number {index}: {error}")
