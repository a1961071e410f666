"""How a question is worded: a sentence of its type, dressed as people type.

One sentence in `HELD_OUT` of each list is never used for training: those are the split `templates`
of the evaluation.
"""

from __future__ import annotations

import random

from edge_mm.data.sentences import SENTENCES

HELD_OUT = 5  # one sentence in so many

# Each fits an imperative ("find the cup"), a statement and a bare noun phrase ("red cup") alike.
POLITE = (
    "please {s}",
    "please, {s}",
    "{s} please",
    "{s}, please",
    "{s}, thanks",
    "{s}, thank you",
    "thanks, now {s}",
    "hey robot, {s}",
    "hey, {s}",
    "hi, {s}",
    "hello robot, {s}",
    "robot: {s}",
    "robot, {s}",
    "{s}, robot",
    "now {s}",
    "and now {s}",
    "next: {s}",
    "ok, {s}",
    "okay robot, {s}",
    "alright, {s}",
    "good, now {s}",
)


def split(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sentences of that type: (for training, held out)."""
    options = SENTENCES[name]
    held_out = options[HELD_OUT - 1 :: HELD_OUT]
    return tuple(option for option in options if option not in held_out), held_out


def sentence(name: str, rng: random.Random, held_out: bool) -> str:
    """A template of that type, from the training sentences or from the held-out ones."""
    training, rest = split(name)
    return rng.choice(rest if held_out else training)


def dress(text: str, rng: random.Random) -> str:
    """A sentence as people type it: sometimes polite, capitalised, mistyped, without its mark."""
    if rng.random() < 0.12 and "?" not in text:
        text = rng.choice(POLITE).format(s=text)
    if rng.random() < 0.15:
        text = text.rstrip("?")
    elif rng.random() < 0.1 and not text.endswith("?"):
        text += "."
    if rng.random() < 0.3:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.05:
        text = _mistype(text, rng)
    return text


def _mistype(text: str, rng: random.Random) -> str:
    """One slip of the finger in a longer word: a letter lost, doubled, or two swapped."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not long:
        return text
    index = rng.choice(long)
    word, at = words[index], rng.randrange(1, len(words[index]) - 1)
    words[index] = rng.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        )
    )
    return " ".join(words)
