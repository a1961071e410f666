"""The sentences that people use, by question type. `{x}` and `{y}` are filled with words.

The last `HELD_OUT` sentences of each list are never used for training: they are the split
`templates` of the evaluation.
"""

from __future__ import annotations

import random

HELD_OUT = 2

SENTENCES: dict[str, tuple[str, ...]] = {
    "locate": (
        "find the {x}",
        "where is the {x}?",
        "locate the {x}",
        "show me the {x}",
        "{x}",
        "detect the {x}",
        "give me the box of the {x}",
        "box the {x}",
        "the {x}",
        "look for the {x}",
        "i need the {x}",
        "can you see where the {x} is?",
        "mark the {x} in the image",
        "which one is the {x}?",
        "draw a box around the {x}",
        "get the {x} for me",
        "is there a {x}? show me",
        "search for the {x}",
        "where can i find the {x}?",
        "put a bounding box on the {x}",
    ),
    "locate_all": (
        "find all {x}",
        "where are the {x}?",
        "locate every {x1}",
        "show me all the {x}",
        "all {x}",
        "detect all {x}",
        "box each {x1}",
        "mark every {x1}",
        "list the {x}",
        "find the {x}",
        "draw boxes around all the {x}",
        "where are all of the {x}?",
    ),
    "point": (
        "point to the {x}",
        "where should i grasp the {x}?",
        "point at the {x}",
        "where do i grab the {x}?",
        "give a grasp point for the {x}",
        "touch the {x}",
        "show where to hold the {x}",
        "click on the {x}",
        "pinpoint the {x}",
        "where would you pick up the {x}?",
    ),
    "exist": (
        "is there a {x}?",
        "do you see a {x}?",
        "can you see a {x}?",
        "is a {x} in view?",
        "is there any {x} on the table?",
        "does the picture show a {x}?",
        "any {x} here?",
        "is there a {x} in the image?",
        "do you have a {x} in view?",
        "is a {x} visible?",
        "have you spotted a {x}?",
        "is the {x} present?",
    ),
    "count": (
        "how many {x} are there?",
        "count the {x}",
        "how many {x} do you see?",
        "what is the number of {x}?",
        "how many {x} are on the table?",
        "number of {x}?",
        "how many {x} can you see?",
        "tell me how many {x} there are",
        "what's the count of {x}?",
        "how many {x} are visible?",
    ),
    "color": (
        "what color is the {x}?",
        "what is the color of the {x}?",
        "which color is the {x}?",
        "what colour is the {x}?",
        "tell me the color of the {x}",
        "the {x} is what color?",
        "color of the {x}?",
        "name the color of the {x}",
        "what colour does the {x} have?",
        "say which color the {x} has",
    ),
    "compare": (
        "which is {c}, the {x} or the {y}?",
        "what is {c}: the {x} or the {y}?",
        "is the {x} or the {y} {c}?",
        "which one is {c}, the {x} or the {y}?",
        "between the {x} and the {y}, which is {c}?",
        "tell me which is {c}, the {x} or the {y}",
        "of the {x} and the {y}, which one is {c}?",
    ),
    "relation": (
        "is the {x} {r} the {y}?",
        "is there a {x} {r} the {y}?",
        "does the {x} stand {r} the {y}?",
        "would you say the {x} is {r} the {y}?",
        "can you see the {x} {r} the {y}?",
        "is it true that the {x} is {r} the {y}?",
        "the {x} is {r} the {y}, right?",
        "check if the {x} is {r} the {y}",
    ),
    "where": (
        "where is the {x} relative to the {y}?",
        "on which side of the {y} is the {x}?",
        "how is the {x} placed relative to the {y}?",
        "seen from the {y}, where is the {x}?",
        "what is the position of the {x} with respect to the {y}?",
        "where does the {x} lie compared with the {y}?",
    ),
    "what": (
        "what is {r} the {y}?",
        "which object is {r} the {y}?",
        "what do you see {r} the {y}?",
        "name the object {r} the {y}",
        "what thing is {r} the {y}?",
        "what stands {r} the {y}?",
    ),
    "identify": (
        "what is at {p}?",
        "what is this: {p}",
        "name the object at {p}",
        "what do you see at {p}?",
        "which object is {p}?",
        "identify {p}",
        "tell me what is at {p}",
    ),
    "caption": (
        "describe the picture",
        "what do you see?",
        "describe the scene",
        "what is on the table?",
        "caption this image",
        "tell me what you see",
        "list what is in view",
        "what objects are there?",
        "give me a description",
        "what is in the picture?",
    ),
    "pick": (
        "pick up the {x}",
        "grab the {x}",
        "take the {x}",
        "lift the {x}",
        "pick the {x}",
        "grasp the {x} and lift it",
        "get hold of the {x}",
        "fetch the {x}",
        "collect the {x}",
    ),
    "push": (
        "push the {x}",
        "push the {x} away",
        "nudge the {x}",
        "give the {x} a push",
        "shove the {x}",
        "move the {x} with a push",
    ),
    "place": (
        "put the {x} {r} the {y}",
        "pick up the {x} and put it {r} the {y}",
        "place the {x} {r} the {y}",
        "move the {x} so that it is {r} the {y}",
        "take the {x} and place it {r} the {y}",
        "grab the {x} and set it down {r} the {y}",
        "set the {x} {r} the {y}",
        "i want the {x} {r} the {y}",
        "bring the {x} {r} the {y}",
        "lay the {x} {r} the {y}",
    ),
    "place_two": (
        "put the {x} and the {z} {r} the {y}",
        "first put the {x} {r} the {y}, then the {z}",
        "place the {x} {r} the {y} and then the {z} too",
        "move the {x} and the {z} {r} the {y}",
        "bring both the {x} and the {z} {r} the {y}",
    ),
}

POLITE = (
    "please {s}",
    "{s} please",
    "could you {s}",
    "hey robot, {s}",
    "{s}, thanks",
    "robot: {s}",
    "now {s}",
    "ok, {s}",
)


def sentence(name: str, rng: random.Random, held_out: bool) -> str:
    """A template of that type, from the training sentences or from the held-out ones."""
    options = SENTENCES[name]
    return rng.choice(options[-HELD_OUT:] if held_out else options[:-HELD_OUT])


def dress(text: str, rng: random.Random) -> str:
    """A sentence as people type it: sometimes polite, capitalised, mistyped, without its mark."""
    if rng.random() < 0.12 and not text.endswith("?"):
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
