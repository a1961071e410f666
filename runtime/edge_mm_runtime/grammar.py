"""What an answer may look like: one llguidance grammar for each mode of `Session.ask`.

Tags and locations are single special tokens, named by id; words between them are free text that
contains no '<'. `auto` is the union of the others, so that every answer that ended by itself can
be read by `grounding.parse`.
"""

from __future__ import annotations

import llguidance
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edge_mm_runtime.answer import MODES as MODES
from edge_mm_runtime.answer import Mode as Mode
from edge_mm_runtime.errors import BundleError, UsageError
from edge_mm_runtime.grounding import ACTIONS, ACTIONS_WITH_RELATION, RELATIONS
from edge_mm_runtime.vocabulary import Vocabulary

_STARTS: dict[Mode, str] = {
    "auto": "free | objects | points | steps | none",
    "locate": "objects | none",
    "point": "points | none",
    "answer": "free",
    "caption": "free",
    "steps": "steps | none",
}


class Grammars:
    """The grammars of one tokenizer, compiled when first used."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._matchers: dict[Mode, llguidance.LLMatcher] = {}
        # No slices: they speed up masks of large vocabularies only, and cost start-up time.
        self._tokenizer = llguidance.LLTokenizer(
            tokenizer.to_str(),
            n_vocab=vocabulary.size,
            eos_token=list(vocabulary.stop),
            slices=[],
        )

    def start(self, mode: Mode, logits_size: int) -> GrammarConstraint:
        """A fresh constraint over logits [logits_size] for one answer."""
        if mode not in _STARTS:
            raise UsageError(f"unknown mode {mode!r}: one of {', '.join(MODES)}")
        if mode not in self._matchers:
            grammar = llguidance.LLMatcher.grammar_from_lark(lark(mode, self._vocabulary))
            matcher = llguidance.LLMatcher(self._tokenizer, grammar)
            if matcher.is_error():
                raise BundleError(f"the grammar of mode {mode} fails: {matcher.get_error()}")
            self._matchers[mode] = matcher
        return GrammarConstraint(self._matchers[mode].deep_copy(), logits_size)


class GrammarConstraint:
    """The state of one grammar within one answer (a generate.Constraint)."""

    def __init__(self, matcher: llguidance.LLMatcher, logits_size: int) -> None:
        self._matcher = matcher
        self._size = logits_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """[logits_size], True for each id that may come next; the stop ids where it may end."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        bits = np.unpackbits(packed, bitorder="little")[: self._size].astype(np.bool_)
        mask = np.zeros(self._size, np.bool_)
        mask[: len(bits)] = bits
        if not mask.any():
            raise RuntimeError(f"the grammar allows nothing: {self._matcher.get_error()}")
        return mask

    def accept(self, token: int) -> None:
        """Go on after `token`."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"the grammar does not allow id {token}: {self._matcher.get_error()}")


def lark(mode: Mode, vocabulary: Vocabulary) -> str:
    """The grammar of a mode in llguidance's Lark dialect, where `<[7]>` is the token of id 7."""
    v = vocabulary
    locations = ",".join(map(str, v.locations))
    bare = "|".join(ACTIONS)
    related = f"({'|'.join(ACTIONS_WITH_RELATION)}) ({'|'.join(RELATIONS)})"
    return f"""
start: {_STARTS[mode]}
free: FREE
none: <[{v.none}]>
objects: (ref box)+
points: (ref point)+
steps: step ("; " step)*
step: HEAD ref (box | point)
ref: <[{v.ref}]> LABEL <[{v.end_ref}]>
box: <[{v.box}]> loc loc loc loc <[{v.end_box}]>
point: <[{v.point}]> loc loc <[{v.end_point}]>
loc: <[{locations}]>
HEAD: /({bare}|{related}) /
LABEL: /[^\\s\\x00-\\x1f\\x7f<>;]([^\\x00-\\x1f\\x7f<>;]{{0,78}}[^\\s\\x00-\\x1f\\x7f<>;])?/
FREE: /[^\\s\\x00-\\x1f\\x7f<][^\\x00-\\x1f\\x7f<]*/
"""
