"""The tokenizer of `nano`: byte-level BPE, lower case, learned from our own questions.

Special and location tokens come first, so the ids of places do not move when the words do.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edge_mm.data.questions import ask
from edge_mm.data.scenes import Seen
from edge_mm.words import COLORS, KINDS, plural
from edge_mm_runtime.grounding import SPECIAL_TOKENS, location_tokens


@cache
def learn_tokenizer(vocab_size: int, bins: int, seed: int = 0) -> Tokenizer:
    """A tokenizer of exactly `vocab_size` tokens, learned from 20,000 imagined views.

    It takes most of a minute; within a process the same one is given again.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [*SPECIAL_TOKENS, *location_tokens(bins)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        show_progress=False,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the corpus gives {tokenizer.get_vocab_size()} tokens, {vocab_size} were asked for"
        )
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(20_000):
        view = [_imagined(number, rng) for number in range(1, rng.randint(2, 8))]
        question = ask(view, rng)
        if question:
            yield question.text
            yield question.answer
    for kind in KINDS:
        for color in COLORS:
            yield f"{color} {kind}"
            yield f"the {color} {plural(kind)}"


def _imagined(number: int, rng: random.Random) -> Seen:
    x, y, width, height = (rng.uniform(0, 0.8) for _ in range(4))
    box = (x, y, min(1.0, x + width), min(1.0, y + height))
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return Seen(
        number,
        rng.choice(KINDS),
        rng.choice(COLORS),
        box,
        centre,
        centre,
        1.0,
        rng.uniform(0.03, 0.3),
        None,
    )
