"""Texts and pictures in any order, as ids for early fusion (`EdgeMM.embed`)."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from edge_mm.model.config import ModelConfig
from edge_mm_runtime.errors import UsageError


def interleave(parts: Sequence[str | int], tokenizer: Tokenizer, config: ModelConfig) -> list[int]:
    """Parts of a prompt -> its ids; i is picture i, all of its T rows, wherever it stands.

    Row t of picture i is id vocab_size + i*T + t, so that one `image_embeds` [B,I*T,D] holds the
    rows of all I pictures in the order of their numbers. Special tokens are written out in a text
    (`<bos>`, `<user>`). UsageError where the fusion is not early: such a sequence has no pictures.
    """
    if config.fusion.kind != "early":
        raise UsageError(
            f"fusion {config.fusion.kind} has no pictures in its sequence: "
            "interleave them with a model of fusion early"
        )
    ids: list[int] = []
    for part in parts:
        if isinstance(part, str):
            ids += tokenizer.encode(part, add_special_tokens=False).ids
        else:
            first = config.language.vocab_size + part * config.image_tokens
            ids += range(first, first + config.image_tokens)
    return ids
