"""Small byte-level BPE tokenizers with the tokens of a codec, special or merely added."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from edge_mm_runtime.codecs import CODECS
from edge_mm_runtime.vocabulary import Vocabulary

CORPUS = (
    '```json\n[\n\t{"bbox_2d": [12, 34, 560, 780], "label": "red cup"}\n]\n```',
    '{"point_2d": [1, 2], "label": "a bowl"},',
    '<point x="10.5" y="20.1" alt="red cup">red cup</point> There are none.',
    "none",
)
TAGS = {
    "qwen2_vl": (
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
    ),
    "internvl": ("<ref>", "</ref>", "<box>", "</box>"),
    "kosmos2": (
        "<phrase>",
        "</phrase>",
        "<object>",
        "</object>",
        "</delimiter_of_multi_objects/>",
    ),
}

Build = Callable[[str, bool], tuple[Tokenizer, Vocabulary]]


@cache
def _spell(name: str, special: bool) -> tuple[Tokenizer, Vocabulary]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<eos>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    locations = CODECS[name].locations
    tokens = [
        AddedToken(text, special=special, normalized=False)
        for text in (*TAGS.get(name, ()), *locations)
    ]
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(tokens)
    decoder = tokenizer.get_added_tokens_decoder()
    added = {token.content: index for index, token in decoder.items()}
    vocabulary = Vocabulary(
        tokenizer.get_vocab_size(),
        added["<image>"],
        (added["<eos>"],),
        tuple(added[text] for text in locations),
        added=added,
        special=frozenset(index for index, token in decoder.items() if token.special),
        codec=name,  # type: ignore[arg-type]
    )
    return tokenizer, vocabulary


@pytest.fixture
def spell() -> Build:
    """`spell(codec, special)`: a tokenizer that has the codec's tokens, and its vocabulary."""
    return _spell
