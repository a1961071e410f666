"""The words of the tabletop: kinds, colours, and what a kind word may mean.

One table for the renderer's labels, the questions, the alignment targets and the evaluation.
"""

from __future__ import annotations

COLORS = (
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "gray",
)
# A mug is a cup with a handle.
KINDS = (
    "cup",
    "mug",
    "bowl",
    "plate",
    "bottle",
    "can",
    "carton",
    "box",
    "ball",
    "apple",
    "banana",
    "pear",
    "lemon",
    "hammer",
    "screwdriver",
    "wrench",
    "spoon",
    "marker",
)

# A word that a person may use -> the kinds that it covers.
MEANINGS: dict[str, tuple[str, ...]] = {
    **{kind: (kind,) for kind in KINDS},
    "cup": ("cup", "mug"),
    "fruit": ("apple", "banana", "pear", "lemon"),
    "tool": ("hammer", "screwdriver", "wrench"),
}
ANY = "object"  # what everything may be called, kinds of a person's own data too

SYNONYMS: dict[str, tuple[str, ...]] = {
    "mug": ("coffee mug", "teacup", "coffee cup"),
    "plate": ("dish",),
    "can": ("soda can", "tin", "tin can"),
    "carton": ("milk carton",),
    "box": ("package", "cardboard box"),
    "ball": ("sphere",),
    "wrench": ("spanner",),
    "marker": ("pen", "felt pen"),
    "object": ("thing", "item"),
    "fruit": ("piece of fruit",),
    "bottle": ("flask",),
    "gray": ("grey",),
    "purple": ("violet",),
}
PLURALS = {
    "box": "boxes",
    "fruit": "fruits",
    "dish": "dishes",
    "wrench": "wrenches",
    "piece of fruit": "pieces of fruit",
}


def plural(word: str) -> str:
    """Of a noun, or of a noun phrase that ends in one: two black boxes."""
    if word in PLURALS:
        return PLURALS[word]
    head, space, last = word.rpartition(" ")
    return head + space + PLURALS.get(last, last + "s")
