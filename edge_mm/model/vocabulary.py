"""Our special and location tokens in a language model's own tokenizer."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grounding import SPECIAL_TOKENS, location_tokens, parse

ASKED = "find the red cup"
ANSWERED = "<ref>red cup</ref><box><loc001><loc002><loc003><loc004></box>"


def extend_tokenizer(tokenizer: Tokenizer, bins: int) -> Tokenizer:
    """A copy that has the tokens of the codec, adds nothing of its own, and is checked.

    A special token that it has already under the same name is used as it is. UsageError for a
    tokenizer in which a prompt does not consist of its parts, as training packs them.
    """
    raw = json.loads(tokenizer.to_str())
    raw["post_processor"] = raw["padding"] = raw["truncation"] = None  # <bos> is the prompt's
    _every_section_alike(raw["pre_tokenizer"])
    found = Tokenizer.from_str(json.dumps(raw))
    locations = location_tokens(bins)
    found.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (*SPECIAL_TOKENS, *locations)]
    )
    first = found.token_to_id(locations[0])
    if [found.token_to_id(token) for token in locations] != list(range(first, first + bins)):
        raise UsageError(
            "the language model's tokenizer has location tokens of its own, in another order: "
            "take another language model"
        )
    _check(found, bins)
    return found


def _every_section_alike(step: dict[str, Any] | None) -> None:
    """A space before each section between special tokens, not before the first one only."""
    if step is None:
        return
    for part in step.get("pretokenizers", [step]):
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "always"


def _check(tokenizer: Tokenizer, bins: int) -> None:
    asked, answered = tokenizer.encode(ASKED).ids, tokenizer.encode(ANSWERED).ids
    user, assistant = tokenizer.token_to_id("<user>"), tokenizer.token_to_id("<assistant>")
    whole = tokenizer.encode(f"<user>{ASKED}<assistant>{ANSWERED}").ids
    if whole != [user, *asked, assistant, *answered]:
        raise UsageError(
            "the language model's tokenizer reads a prompt otherwise than its parts: take another "
            "language model"
        )
    heard = tokenizer.decode(answered, skip_special_tokens=False)
    if parse(heard, bins) != parse(ANSWERED, bins):
        raise UsageError(
            f"the language model's tokenizer spells {ANSWERED!r} as {heard!r}: take another "
            "language model"
        )
