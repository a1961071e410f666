"""`edge-mm report RUN|CHECKPOINT`: one page about how features align, and where answers fail."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mm_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_mm.report.curves import Line
    from edge_mm.report.page import Exam, Report
    from edge_mm.train.trace import Look, Probe


def main(argv: list[str]) -> int:
    """Parse, look, ask, write the page."""
    arguments = parse(argv)
    if not arguments.out.absolute().parent.is_dir():
        raise UsageError(f"{arguments.out}: there is no folder {arguments.out.parent}")

    from edge_mm_runtime.extras import require

    require("torch", "train")
    require("transformers", "train")
    from edge_mm.report.page import render_page

    report = gather(arguments.run, arguments.data, arguments.limit, arguments.questions)
    arguments.out.write_text(render_page(report), encoding="utf-8")
    looks = len(report.looks)
    print(f"{looks} look{'s' if looks > 1 else ''} at {len(report.frames)} pictures")
    print(f"open {arguments.out.resolve()}")
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="edge-mm report",
        description="One page that shows a training run from inside: how pictures and captions "
        "align over its steps, all curves, the word that each patch is nearest to, failures.",
    )
    parser.add_argument("run", type=Path, help="folder of a run, or of a checkpoint")
    parser.add_argument(
        "--data", type=Path, help="folder with scenes.json to ask about, for the failures"
    )
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("report.html"), help="default: report.html"
    )
    parser.add_argument("--limit", type=int, default=48, help="pictures to ask about (default: 48)")
    parser.add_argument("--questions", type=int, default=8, help="questions a picture (default: 8)")
    return parser.parse_args(argv)


def gather(run: Path, data: Path | None, limit: int, questions: int) -> Report:
    """What the page shows: the run's trace and log, and an exam on `data`.

    Without a trace there is one look, at the checkpoint and the pictures of `data`.
    """
    from edge_mm.report.curves import read_log
    from edge_mm.report.page import Report
    from edge_mm.train.trace import read_trace

    checkpoint = run if (run / "config.json").is_file() else run / "checkpoint"
    lines = read_log(run / "log.jsonl")
    if (run / "trace" / "samples.json").is_file():
        subjects, frames, looks = read_trace(run / "trace")
    elif not (checkpoint / "config.json").is_file():
        raise UsageError(
            f"{run} is no run and no checkpoint: there is neither trace/ nor config.json"
        )
    elif data is None:
        raise UsageError(
            f"{run} has no trace: give pictures to look at with --data (a run writes a trace when "
            "its recipe has train.trace)"
        )
    else:
        probe, look = look_once(checkpoint, data, lines)
        subjects, frames, looks = probe.subjects, probe.thumbnails, [look]
    exam = None if data is None else sit_exam(checkpoint, data, limit, questions)
    return Report(run.resolve().name, subjects, frames, looks, lines, exam)


def sit_exam(checkpoint: Path, data: Path, limit: int, questions: int) -> Exam:
    """Ask a checkpoint about the first pictures of a data folder."""
    from edge_mm.data.scenes import read_frame
    from edge_mm.evaluate.exam import sit
    from edge_mm.evaluate.metrics import summarise
    from edge_mm.model.session import open_checkpoint
    from edge_mm.report.failures import worst
    from edge_mm.report.page import Exam

    with open_checkpoint(checkpoint) as session:
        pictures = sit(session.ask, data, limit=limit, questions=questions)
    return Exam(
        data=str(data),
        pictures=len(pictures),
        questions=sum(map(len, pictures)),
        metrics=summarise([[marked.scores for marked in picture] for picture in pictures]),
        failures=[(marked, read_frame(data, marked.item.scene)) for marked in worst(pictures)],
    )


def look_once(checkpoint: Path, data: Path, lines: list[Line]) -> tuple[Probe, Look]:
    """A look at a finished checkpoint, at the end of its log."""
    from edge_mm.model.checkpoint import load_model
    from edge_mm.tokenizer import load_tokenizer
    from edge_mm.train.trace import Probe

    model = load_model(checkpoint)
    probe = Probe([data], model.config, load_tokenizer(checkpoint))
    end: Line = lines[-1] if lines else {"stage": "checkpoint", "step": 0, "samples": 0}
    return probe, probe.look(model, end["stage"], end["step"], end["samples"])
