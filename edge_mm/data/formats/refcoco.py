"""Referring expressions of the RefCOCO family: COCO instances, and sentences about single ones.

The data sets (https://github.com/lichengunc/refer) ship the sentences as a pickle. A pickle can run
any program when it is loaded, so it is not read here: it must be made into JSON first.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_mm.data.formats.coco import read_pictures
from edge_mm.data.formats.record import Record, Skips, decode, decode_each
from edge_mm.demo.questions import Question
from edge_mm_runtime.errors import UsageError

INSTANCES = "instances.json"
ASKED = ("find the {x}", "where is the {x}?", "locate the {x}", "show me the {x}")
ARTICLES = ("the ", "a ", "an ")


class _Sentence(msgspec.Struct, frozen=True):
    sent: str


class _Reference(msgspec.Struct, frozen=True):
    ann_id: int | str
    sentences: list[_Sentence]
    split: str | None = None


def read_refcoco(
    path: Path, skips: Skips, instances: Path | None = None, split: str | None = None
) -> Iterator[Record]:
    """One record a picture that is spoken of, with all its objects and a question a sentence.

    `path` is the JSON list of references, `instances` the COCO file (default: instances.json beside
    it); `split` takes the references of that split only, e.g. train.
    UsageError for a pickle, for files of another kind, and when no reference is of that split.
    """
    path = Path(path)
    _refuse_pickle(path)
    rows = decode(path, list[msgspec.Raw], "a JSON list of references (ann_id, sentences)")
    sentences: dict[int | str, list[str]] = defaultdict(list)
    splits = set()
    for index, reference in decode_each(rows, _Reference, "reference", skips):
        splits.add(reference.split or "none")
        if split is not None and reference.split != split:
            continue
        for sentence in reference.sentences:
            if text := _noun_phrase(sentence.sent):
                sentences[reference.ann_id].append(text)
            else:
                skips.add("sentence without words, or with tags", f"reference {index}")
    if split is not None and split not in splits:
        raise UsageError(f"{path} has no split {split!r}; it has {', '.join(sorted(splits))}")
    for picture in read_pictures(instances or path.with_name(INSTANCES), skips):
        questions = tuple(
            Question(_asked(text), objects=[number])
            for number, source in enumerate(picture.annotations)
            if source is not None
            for text in sentences.pop(source, ())
        )
        if questions:
            yield msgspec.structs.replace(picture.record, questions=questions)
    for source in sentences:
        skips.add("reference to an annotation that is not there", f"ann_id {source}")


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as file:
            begins = file.read(1)
    except OSError:
        return  # decode() says what is wrong
    if begins == b"\x80" or path.suffix.lower() in (".p", ".pkl", ".pickle"):
        raise UsageError(
            f"{path} is a pickle, which can run any program when it is loaded: convert it to a "
            "JSON list of the same references on a machine where you trust it, and give that"
        )


def _noun_phrase(sentence: str) -> str:
    """A sentence as a noun phrase without its article; "" when it cannot be asked about."""
    text = " ".join(sentence.split()).rstrip(" .")
    for article in ARTICLES:
        if text.lower().startswith(article):
            text = text[len(article) :]
            break
    return "" if "<" in text else text


def _asked(text: str) -> str:
    return random.Random(text).choice(ASKED).format(x=text)
