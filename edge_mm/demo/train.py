"""`edge-mm demo --train`: the whole line at toy size, with the commands that a user would type.

Data, three stages of training, export, questions; then the same exam for the toy and for the
shipped model, which shows how far a few minutes of training are from it.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from edge_mm_runtime.errors import EdgeMMError, UsageError

PICTURES, EXAM_PICTURES, EXAM_QUESTIONS = 400, 40, 6


def run_line(out: Path, bundle: str) -> None:
    """Run every step in `out` (emptied first) and compare the toy with `bundle`."""
    from edge_mm.evaluate.exam import examine
    from edge_mm_runtime import Session

    root = Path(__file__).resolve().parents[2]
    recipe, eye = root / "recipes" / "toy.yaml", root / "models" / "efficientnet_lite0"
    if not recipe.is_file():
        raise UsageError(f"{recipe} is missing: `demo --train` runs in a checkout of edge_mm")
    if out.exists():
        shutil.rmtree(out)
    data, exam, run, toy = (str(out / name) for name in ("data", "exam", "run", "bundle"))
    started = time.monotonic()
    step("data", "make", "tabletop", "--count", str(PICTURES), "--out", data)
    step(
        "data",
        "make",
        "tabletop",
        "--count",
        str(EXAM_PICTURES),
        "--split",
        "val",
        "--seed",
        "5",
        "--out",
        exam,
    )
    settings = ("--set", f"data.train=[{data}]", "--set", f"model.backbone={eye}")
    step("train", str(recipe), "--out", run, *settings)
    step("export", f"{run}/checkpoint", "-o", toy, "--precision", "fp32", "--verify-data", exam)
    step("ask", f"{exam}/images/000000.jpg", "find all objects", "--bundle", toy)
    print(f"\nThe whole line took {(time.monotonic() - started) / 60:.1f} minutes.")
    figures = []
    for name in (toy, bundle):
        with Session(name) as session:
            figures.append(examine(session.ask, Path(exam), questions=EXAM_QUESTIONS))
    print(f"{'on ' + str(EXAM_PICTURES) + ' unseen pictures':24} {'toy':>6} {'shipped':>8}")
    for name, metric in figures[0].items():
        print(f"{name:24} {100 * metric.value:5.0f}% {100 * figures[1][name].value:7.0f}%")


def step(*arguments: str) -> None:
    """Print a command of edge-mm and run it; EdgeMMError when it fails."""
    from edge_mm import cli

    print(f"\n$ edge-mm {' '.join(arguments)}", flush=True)
    if code := cli.main(list(arguments)):
        raise EdgeMMError(f"`edge-mm {arguments[0]}` ended with exit code {code}, see above")
