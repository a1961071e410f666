"""What each figure means, for people: one line, the better direction, and how it is written."""

from __future__ import annotations

from typing import NamedTuple


class About(NamedTuple):
    """better: 1 higher, -1 lower, 0 neither; scale: the end of its bar, 0 for none."""

    text: str
    better: int = 1
    percent: bool = True
    scale: float = 1.0


SUITES = {
    "grounding": "Places and words: one question of each type about each picture",
    "hallucination": "Does it see what is not there, and does it need the picture?",
    "swaps": "Which colour belongs to which thing, and which thing is left of which?",
    "calibration": "Of the things located and the words said with 80 % confidence, are 80 % right?",
    "embeddings": "How well picture and text features agree",
}

_WORDS = {
    "exist": "is it there?",
    "count": "how many?",
    "color": "of what colour?",
    "relation": "where, seen from another thing?",
    "compare": "which one is larger?",
    "words": "all questions that a word answers",
}

ABOUT: dict[str, About] = {
    "locate_acc50": About("box overlaps the thing with IoU >= 0.5"),
    "locate_acc75": About("box overlaps the thing with IoU >= 0.75"),
    "locate_iou": About("mean IoU of the box"),
    "locate_all_f1": About("F1 of all boxes, matched at IoU 0.5"),
    "point_in_box": About("point, or the box's centre, lies in the thing's box"),
    "point_in_mask": About("point lies on the thing itself"),
    "found": About("something is located where there is something"),
    "absent_refused": About("says 'not in view' of what is not there"),
    "exist_f1": About("is it there? F1 of yes"),
    "count_exact": About("how many? the number is right"),
    "color_acc": About("of what colour? the word is right"),
    "relation_acc": About("where, seen from another thing? the word is right"),
    "compare_acc": About("which one is larger? the right one is named"),
    "order_exact": About("things named from one side to the other, all in their places"),
    "caption_exact": About("every thing and colour named, in order"),
    "steps_exact": About("every action, relation and place of an instruction is right"),
    **{
        f"pope_{setting}_{figure}": About(f"{text}; {setting} negatives", better)
        for setting in ("random", "popular", "adversarial")
        for figure, text, better in (
            ("acc", "is there a ...? right answers", 1),
            ("precision", "right among the answers yes", 1),
            ("recall", "yes to what is there", 1),
            ("f1", "F1 of yes", 1),
            ("yes", "share of answers yes, 50 % is right", 0),
        )
    },
    **{
        f"{word}_{view}": About(f"{question} {text}", better)
        for word, question in _WORDS.items()
        for view, text, better in (
            ("seen", "with the picture", 1),
            ("blank", "with a grey picture: what text alone gives", 0),
            ("majority", "the most frequent answer, always", 0),
        )
    },
    "blank_located": About("things located in a grey picture", -1),
    "swap_exist": About("red cup yes, blue bowl yes, blue cup no, red bowl no: all four right"),
    "swap_exist_each": About("the same questions, one by one"),
    "swap_relation": About("a left of b yes, b left of a no: both right"),
    "swap_relation_each": About("the same questions, one by one"),
    **{
        f"{name}_{figure}": About(f"{what}: {text}", better)
        for name, what in (("located", "things located"), ("words", "answers in words"))
        for figure, text, better in (
            ("right", "how many are right", 1),
            ("confidence", "mean confidence", 0),
            ("ece", "expected calibration error", -1),
            ("auroc", "right ones are surer than wrong ones (area under the ROC curve)", 1),
            ("brier", "Brier score of the confidence", -1),
        )
    },
    **{
        f"retrieval_{way}_r{k}": About(f"{text} among the first {k}")
        for way, text in (("i2t", "the picture's caption"), ("t2i", "the caption's picture"))
        for k in (1, 5, 10)
    },
    "ranking_acc": About("a pair's cosine is above that of a random wrong pair"),
    "cosine_matched": About("mean cosine of a picture and its caption", percent=False),
    "cosine_other": About("mean cosine of a picture and other captions", 0, percent=False),
    "neighbour_agreement": About("shared among the 5 nearest pictures and the 5 nearest captions"),
    "semantic_consistency": About(
        "cosine of pictures that show the most alike, minus that of others", percent=False
    ),
    "modality_gap": About(
        "distance between the mean picture and the mean caption", 0, percent=False, scale=2.0
    ),
    "image_rank": About("effective rank of the picture features", percent=False, scale=0.0),
    "text_rank": About("effective rank of the caption features", percent=False, scale=0.0),
    "swap_caption": About("its caption is nearer than the one with two colours swapped"),
    "zero_shot_kind": About("kind of a cut-out thing, by the nearest prompt"),
    "zero_shot_color": About("colour of a cut-out thing, by the nearest prompt"),
}


def about(name: str) -> About:
    """What is known of a figure; an unknown one is a share, higher is better."""
    return ABOUT.get(name, About(""))


def written(name: str, value: float, signed: bool = False) -> str:
    """A figure as people read it: percent, or a plain number."""
    scaled, digits = (100 * value, 1) if about(name).percent else (value, 2)
    rounded = round(scaled, digits) + 0.0  # no -0.0
    return f"{rounded:{'+' if signed else ''}5.{digits}f}"
