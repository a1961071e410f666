"""What an answer may look like: one llguidance grammar for each mode of `Session.ask`.

The edge_mm codec: tags and locations are single special tokens, named by id; words between them
are free text that contains no '<'. `auto` is the union of the others, so that every answer that
ended by itself can be read by `grounding.parse`.

Other codecs: locate and point are held to the codec's own grammar; the other modes are free text,
in which special tokens have no place but, in auto, those of the codec.
"""

from __future__ import annotations

import llguidance
import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from edge_mm_runtime.answer import MODES as MODES
from edge_mm_runtime.answer import Mode as Mode
from edge_mm_runtime.codecs import CODECS, PLACES, Codec
from edge_mm_runtime.codecs.lark import Spelling
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
_LARGE = 32_000
"""Tokens of a vocabulary from which on llguidance's slices pay for their start-up time."""


class Grammars:
    """The grammars of one tokenizer, compiled when first used."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._codec = CODECS[vocabulary.codec]
        self._matchers: dict[Mode, llguidance.LLMatcher] = {}
        self._words: dict[bool, npt.NDArray[np.bool_]] = {}
        self._spoken = tokenizer
        self._tokenizer: llguidance.LLTokenizer | None = None

    def start(self, mode: Mode, logits_size: int) -> GrammarConstraint | WordsConstraint:
        """A fresh constraint over logits [logits_size] for one answer.

        Raises UsageError for a mode that there is not, or that the model has no words for.
        """
        check_mode(mode, self._codec)
        if self._vocabulary.tags is None and mode not in PLACES:
            # In auto the model may say nothing: some say so that nothing is there.
            not_first = () if mode == "auto" else self._vocabulary.stop
            return WordsConstraint(self._word_ids(mode == "auto"), not_first, logits_size)
        if mode not in self._matchers:
            grammar = llguidance.LLMatcher.grammar_from_lark(self._lark(mode))
            matcher = llguidance.LLMatcher(self._opened(), grammar)
            if matcher.is_error():
                raise BundleError(f"the grammar of mode {mode} fails: {matcher.get_error()}")
            self._matchers[mode] = matcher
        return GrammarConstraint(self._matchers[mode].deep_copy(), logits_size)

    def _lark(self, mode: Mode) -> str:
        if self._codec.grammar is None:
            return lark(mode, self._vocabulary)
        # llguidance takes some tokens for special that the tokenizer does not: it is asked.
        is_special = self._opened().is_special_token
        tokens = {text: i for text, i in self._vocabulary.added.items() if is_special(i)}
        return self._codec.grammar("box" if mode == "locate" else "point", Spelling(tokens))

    def _opened(self) -> llguidance.LLTokenizer:
        if self._tokenizer is None:
            v = self._vocabulary
            try:
                self._tokenizer = llguidance.LLTokenizer(
                    self._spoken.to_str(),
                    n_vocab=v.size,
                    eos_token=list(v.stop),
                    slices=None if v.size >= _LARGE else [],
                )
            except Exception as error:  # llguidance raises ValueError and bare Exceptions
                raise BundleError(
                    f"llguidance {llguidance.__version__} cannot use this tokenizer: {error}: ask "
                    "in mode auto, answer or caption"
                ) from None
        return self._tokenizer

    def _word_ids(self, with_tags: bool) -> npt.NDArray[np.bool_]:
        """bool [size]: the ids that free text is made of, and the stop ids."""
        if with_tags not in self._words:
            v, tags = self._vocabulary, self._codec.tags
            mask = np.ones(v.size, np.bool_)
            for text, index in v.added.items():
                is_tag = tags is not None and tags.fullmatch(text) is not None
                mask[index] = with_tags if is_tag else index not in v.special
            mask[v.image] = False
            mask[list(v.stop)] = True
            self._words[with_tags] = mask
        return self._words[with_tags]


def check_mode(mode: Mode, codec: Codec) -> None:
    """Raise UsageError unless a model of this codec can answer in this mode."""
    if mode not in MODES:
        raise UsageError(f"unknown mode {mode!r}: one of {', '.join(MODES)}")
    if mode in codec.modes:
        return
    instead = f"ask in mode {', '.join(codec.modes)}"
    if not codec.speaks:
        raise UsageError(f"mode {mode}: this model was not taught to name places: {instead}")
    raise UsageError(
        f"mode {mode}: codec {codec.name} has no words for {PLACES[mode]}, only for "
        f"{' and '.join(codec.speaks)}: {instead}"
    )


class GrammarConstraint:
    """The state of one grammar within one answer (a generate.Constraint)."""

    def __init__(self, matcher: llguidance.LLMatcher, logits_size: int) -> None:
        self._matcher = matcher
        self._size = logits_size

    def allowed(self) -> npt.NDArray[np.bool_]:
        """[logits_size], True for each id that may come next; the stop ids where it may end."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(packed, count=self._size, bitorder="little").view(np.bool_)
        if not mask.any():
            raise RuntimeError(f"the grammar allows nothing: {self._matcher.get_error()}")
        return mask

    def forced(self) -> list[int]:
        """The ids that a text is cut into which can only go on in one way; else none."""
        ahead = self._matcher.compute_ff_tokens()
        return ahead[: self._matcher.validate_tokens(ahead)]

    def accept(self, token: int) -> None:
        """Go on after `token`."""
        if not self._matcher.consume_token(token):
            raise ValueError(f"the grammar does not allow id {token}: {self._matcher.get_error()}")


class WordsConstraint:
    """Free text of a model of another codec (a generate.Constraint).

    ids        bool [n], those that text is made of and the stop ids
    not_first  ids that may not come first
    """

    def __init__(
        self, ids: npt.NDArray[np.bool_], not_first: tuple[int, ...], logits_size: int
    ) -> None:
        self._mask = np.zeros(logits_size, np.bool_)
        self._mask[: len(ids)] = ids
        self._first = self._mask.copy()
        self._first[list(not_first)] = False
        self._begun = False

    def allowed(self) -> npt.NDArray[np.bool_]:
        """[logits_size], True for each id that may come next."""
        return self._mask if self._begun else self._first

    def accept(self, token: int) -> None:
        """Go on after `token`."""
        self._begun = True


def lark(mode: Mode, vocabulary: Vocabulary) -> str:
    """The edge_mm grammar of a mode in llguidance's Lark dialect; `<[7]>` is the token of id 7."""
    if vocabulary.tags is None:
        raise ValueError(f"codec {vocabulary.codec} has a grammar of its own")
    t = vocabulary.tags
    locations = ",".join(map(str, vocabulary.locations))
    bare = "|".join(ACTIONS)
    related = f"({'|'.join(ACTIONS_WITH_RELATION)}) ({'|'.join(RELATIONS)})"
    return f"""
start: {_STARTS[mode]}
free: FREE
none: <[{t.none}]>
objects: (ref box)+
points: (ref point)+
steps: step ("; " step)*
step: HEAD ref (box | point)
ref: <[{t.ref}]> LABEL <[{t.end_ref}]>
box: <[{t.box}]> loc loc loc loc <[{t.end_box}]>
point: <[{t.point}]> loc loc <[{t.end_point}]>
loc: <[{locations}]>
HEAD: /({bare}|{related}) /
LABEL: /[^\\s\\x00-\\x1f\\x7f<>;]([^\\x00-\\x1f\\x7f<>;]{{0,78}}[^\\s\\x00-\\x1f\\x7f<>;])?/
FREE: /[^\\s\\x00-\\x1f\\x7f<][^\\x00-\\x1f\\x7f<]*/
"""
