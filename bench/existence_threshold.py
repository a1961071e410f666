"""From which share of `<ref>` against `<none>` on is "it is there" the better answer?

python bench/existence_threshold.py [BUNDLE] [--pictures 60]

Asks for things that are there and things that are not, with one threshold after the other, and
prints how often each is right. The best goes into `grounding.existence_threshold` of the
checkpoint's config.json before it is exported. The pictures (data/exam/threshold, rendered when
they are missing) have a seed of their own: no figure may come from them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from edge_mm.data.scenes import read_frame, read_scenes
from edge_mm.data.tabletop.write import make_dataset
from edge_mm.evaluate.exam import questions_about
from edge_mm_runtime import Session
from edge_mm_runtime.bundle import Bundle, load_bundle

DATA, SEED = Path("data/exam/threshold"), 2
THRESHOLDS = (None, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
QUESTIONS = 26  # two of each type; the places among them are asked


def main() -> None:
    """Sweep and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle", nargs="?", default="default")
    parser.add_argument("--pictures", type=int, default=60)
    arguments = parser.parse_args()
    make_dataset(DATA, arguments.pictures, SEED, "val")
    asked = [
        (read_frame(DATA, scene), item.question.text, item.question.type)
        for scene in read_scenes(DATA)[: arguments.pictures]
        for item in questions_about(scene, QUESTIONS, held_out=False, seed=1)
        if item.question.type in ("locate", "absent")
    ]
    print("| threshold | found what is there | refused what is not | mean |\n|---|---|---|---|")
    bundle = load_bundle(arguments.bundle)
    for threshold in THRESHOLDS:
        with Session(with_threshold(bundle, threshold)) as session:
            right: dict[str, list[bool]] = {"locate": [], "absent": []}
            for frame, text, kind in asked:
                right[kind].append(session.ask(frame, text).found is (kind == "locate"))
        found, refused = (sum(right[kind]) / len(right[kind]) for kind in ("locate", "absent"))
        print(f"| {threshold} | {found:.3f} | {refused:.3f} | {(found + refused) / 2:.3f} |")


def with_threshold(bundle: Bundle, threshold: float | None) -> Bundle:
    manifest = bundle.manifest
    grounding = msgspec.structs.replace(manifest.grounding, existence_threshold=threshold)
    return Bundle(bundle.folder, msgspec.structs.replace(manifest, grounding=grounding))


if __name__ == "__main__":
    main()
