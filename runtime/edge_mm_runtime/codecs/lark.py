"""Pieces of grammars that codecs share, in llguidance's Lark dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Kind = Literal["box", "point"]

THOUSAND = "/1000|[1-9][0-9]{0,2}|0/"
_SIGNS = r"\x00-\x1f\x7f<>;\"\\"
LABEL = rf"[^\s{_SIGNS}]([^{_SIGNS}]{{0,78}}[^\s{_SIGNS}])?"
"""Of at most 80 characters, without the signs that any codec gives a meaning."""


class Spelling(NamedTuple):
    """How a tokenizer spells the tags of a codec: by id where they are special tokens."""

    special: Mapping[str, int]
    """Ids of the tokens that a grammar's text cannot stand for."""

    def tag(self, text: str) -> str:
        """A tag: its token, or its letters."""
        return f"<[{self.special[text]}]>" if text in self.special else json.dumps(text)

    def rule(self, name: str, tokens: Sequence[str], pattern: str) -> str:
        """A rule for one of these tokens, or, where they are not special, text of the pattern."""
        if any(token not in self.special for token in tokens):
            return f"{name}: {name.upper()}\n{name.upper()}: /{pattern}/"
        return f"{name}: <[{','.join(str(self.special[token]) for token in tokens)}]>"
