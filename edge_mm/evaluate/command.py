"""`edge-mm eval CHECKPOINT|BUNDLE --data DIR`: suites of questions, with confidence intervals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_mm.evaluate.catalogue import SUITES
from edge_mm_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_mm.evaluate.suites import Plan, Report
    from edge_mm_runtime.session import Session

STDOUT = "-"


def main(argv: list[str]) -> int:
    """Parse, examine, print."""
    arguments = parse(argv)
    suites = tuple(dict.fromkeys(arguments.suite.split(",")))
    models = [arguments.model, *([arguments.against] if arguments.against else [])]
    for model in models:
        check(model, suites)
    for file in (arguments.json, arguments.html):
        if file is not None and not Path(file).absolute().parent.is_dir():
            raise UsageError(f"{file} cannot be written: there is no folder {Path(file).parent}")

    from edge_mm_runtime.extras import require

    require("cv2", "cpu")
    from edge_mm.evaluate.suites import Plan

    plan = Plan(
        suites,
        arguments.data,
        arguments.limit,
        arguments.questions,
        arguments.held_out_templates,
        arguments.seed,
    )
    reports = [examine_model(model, plan) for model in models]
    if arguments.json is not None:
        text = json.dumps(as_json(models, reports))
        if arguments.json == STDOUT:
            print(text)
        else:
            Path(arguments.json).write_text(text + "\n", encoding="utf-8")
    if arguments.json != STDOUT:
        print(as_text(reports))
    if arguments.html is not None:
        from edge_mm.evaluate.page import render_page

        arguments.html.write_text(render_page(models, reports, plan), encoding="utf-8")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="edge-mm eval",
        description="Ask a model about annotated scenes and judge the answers.",
        epilog="suites: " + "; ".join(f"{name}: {text}" for name, text in SUITES.items()),
    )
    parser.add_argument(
        "model", nargs="?", help="a checkpoint folder, a bundle folder, or 'default'"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes.json")
    parser.add_argument(
        "--suite",
        default="grounding",
        metavar="NAME[,NAME]",
        help=f"of {', '.join(SUITES)} (default: grounding)",
    )
    parser.add_argument(
        "--against", metavar="OTHER", help="another model: what is better or worse than in it"
    )
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--questions", type=int, default=8, help="questions a picture (default: 8)")
    parser.add_argument(
        "--held-out-templates",
        action="store_true",
        help="ask in sentences that were never trained on",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed asks other questions")
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="write one JSON object to a file; without a name, print it and nothing else",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with bars")
    arguments = parser.parse_args(argv)
    if arguments.model is None and arguments.json not in (None, STDOUT):
        arguments.model, arguments.json = arguments.json, STDOUT  # `eval --json MODEL`
    if arguments.model is None:
        parser.error("the following arguments are required: model")
    return arguments


def check(model: str, suites: tuple[str, ...]) -> None:
    """UsageError for a suite that does not exist or that this model cannot answer; BundleError."""
    for suite in suites:
        if suite not in SUITES:
            raise UsageError(f"unknown suite {suite!r}: of {', '.join(SUITES)}")
    if is_checkpoint(model):
        return
    from edge_mm_runtime.bundle import load_bundle

    load_bundle(model, "size")  # its mistakes now, not after the first model's exam
    if "embeddings" in suites:
        raise UsageError(
            f"{model} is a bundle, which has no embeddings to measure: give the checkpoint folder "
            "that it was exported from, or leave `embeddings` out of --suite"
        )


def is_checkpoint(model: str) -> bool:
    """Whether this is the folder of a checkpoint, not of a bundle."""
    return (Path(model) / "config.json").is_file()


def open_model(name: str) -> Session:
    """A session on a bundle, or on the torch model of a checkpoint."""
    if is_checkpoint(name):
        from edge_mm_runtime.extras import require

        require("torch", "train")
        from edge_mm.model.session import open_checkpoint

        return open_checkpoint(Path(name))
    from edge_mm_runtime.session import Session

    return Session(name)


def examine_model(model: str, plan: Plan) -> Report:
    """Open a model and ask it all suites of the plan."""
    from edge_mm.evaluate.suites import run

    with open_model(model) as session:
        return run(session.ask, Path(model) if is_checkpoint(model) else None, plan)


def as_json(models: list[str], reports: list[Report]) -> dict[str, Any]:
    """{"metrics": {name: {value, low, high, n}}}, and what further suites and --against add.

    "reliability" and "reliability_words" are the bins of the calibration, of things located and of
    answers in words; "against" is {"model", "metrics", "differences": {name: {value, low, high,
    verdict}}}.
    """
    import msgspec

    def flat(by_suite: dict[str, dict[str, Any]]) -> dict[str, Any]:
        merged = {name: one for found in by_suite.values() for name, one in found.items()}
        plain: dict[str, Any] = msgspec.to_builtins(merged)
        return plain

    out: dict[str, Any] = {"metrics": flat(reports[0].metrics())}
    if reports[0].bins:
        out["reliability"] = msgspec.to_builtins(reports[0].bins)
    if reports[0].word_bins:
        out["reliability_words"] = msgspec.to_builtins(reports[0].word_bins)
    if len(reports) > 1:
        out["against"] = {
            "model": models[1],
            "metrics": flat(reports[1].metrics()),
            "differences": flat(reports[0].against(reports[1])),
        }
    return out


def as_text(reports: list[Report]) -> str:
    """The tables of all suites, with their names where there are several."""
    from edge_mm.evaluate.table import comparison, conclusion, table

    ours = reports[0].metrics()
    if len(reports) == 1:
        tables = {suite: table(metrics) for suite, metrics in ours.items()}
    else:
        theirs, differences = reports[1].metrics(), reports[0].against(reports[1])
        tables = {
            suite: comparison(ours[suite], theirs[suite], found)
            for suite, found in differences.items()
        }
    named = [f"{suite}\n{text}" if len(tables) > 1 else text for suite, text in tables.items()]
    if len(reports) > 1:
        merged = {name: one for found in differences.values() for name, one in found.items()}
        named.append(conclusion(merged))
    return "\n\n".join(named)
