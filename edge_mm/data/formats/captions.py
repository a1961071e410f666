"""Captions: a CSV table with the columns image and caption, a row a caption."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path

from edge_mm.data.formats.record import Record, Skips
from edge_mm.demo.questions import Question
from edge_mm_runtime.errors import UsageError

COLUMNS = ("image", "caption")
ASKED = ("describe the picture", "what is in the picture?", "what do you see?", "caption this")


def read_captions(path: Path, skips: Skips) -> Iterator[Record]:
    """One record a row; a picture may come again. Other columns do not matter.

    UsageError when a column is missing or the file is not a table in UTF-8.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            has = rows.fieldnames or []
            if missing := [column for column in COLUMNS if column not in has]:
                raise UsageError(
                    f"{path} has no column {' and no column '.join(map(repr, missing))}; "
                    f"its first line names {', '.join(map(repr, has)) or 'nothing'}"
                )
            for row in rows:
                image, caption = ((row[column] or "").strip() for column in COLUMNS)
                if not image or not caption or "<" in caption:
                    skips.add(
                        "row without a picture or words, or with tags", f"line {rows.line_num}"
                    )
                    continue
                asked = random.Random(f"{image}/{caption}").choice(ASKED)
                yield Record(image, questions=(Question(asked, "caption", answer=caption),))
    except FileNotFoundError:
        raise UsageError(f"no such file: {path}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a CSV table in UTF-8: {error}") from None
