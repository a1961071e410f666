"""`edge-mm check BUNDLE`: its files, and that it answers as torch did when it was exported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

from edge_mm_runtime.answer import MODES

if TYPE_CHECKING:
    from edge_mm_runtime.bundle import Bundle
    from edge_mm_runtime.references import References

_COLUMNS = {
    "questions": "questions",
    "same_answers": "same answers",
    "same_tokens": "same tokens",
    "boxes": "boxes",
    "mean_iou": "mean IoU",
    "within_half_bin": "within half a bin",
    "point_error": "point error",
    "logits_cosine": "logits cosine",
    "logits_difference_max": "largest difference",
}


def main(argv: list[str]) -> int:
    """Print what was checked; 0 when all is well, 1 when an answer or a figure fails."""
    args = _parse(argv)
    from edge_mm_runtime.bundle import load_bundle
    from edge_mm_runtime.references import read_references
    from edge_mm_runtime.session import default_target

    bundle = load_bundle(args.bundle)
    target = args.target or default_target(bundle)
    manifest, precision = bundle.manifest, bundle.graphs(target).precision
    references = read_references(bundle)
    answered = _ask(bundle, target) if references is None else _repeat(bundle, target, references)
    report: dict[str, Any] = {
        "bundle": str(bundle.folder),
        "name": manifest.name,
        "schema": manifest.schema,
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "target": target,
        "precision": precision,
        "passed": not answered["failures"],
        **answered,
    }
    print(msgspec.json.encode(report).decode() if args.json else describe(report))
    return 0 if report["passed"] else 1


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    graphs = f"{report['target']} {report['precision']} graphs on ONNX Runtime's CPU provider"
    lines = [
        f"{report['bundle']}: {report['name']}, schema {report['schema']}",
        f"{report['files']} files, {report['bytes'] / 1e6:.1f} MB: sizes and hashes are right",
    ]
    if "answers" in report:
        lines.append(f"no references in it to compare with; {graphs}, asked about a plain picture:")
        lines += [f"{mode:<8} ok: {text[:40]!r}" for mode, text in report["answers"].items()]
    else:
        lines.append(f"{graphs}, compared with torch's answers of the export:")
        lines += _table(report)
        lines += [
            f"{item['picture']}, {item['question']!r}: torch said {item['torch']!r}, "
            f"here it is {item['exported']!r}"
            for figures in report["by_type"].values()
            for item in figures["changed"]
        ]
    lines += [f"FAILED: {failure}" for failure in report["failures"]]
    return "\n".join(lines)


def _ask(bundle: Bundle, target: str) -> dict[str, Any]:
    """Ask about a plain picture in every mode: what there is to check without references."""
    import numpy as np

    from edge_mm_runtime.errors import EdgeMMError
    from edge_mm_runtime.session import Session

    ramp = np.linspace(0, 255, 240 * 320 * 3).reshape(240, 320, 3).astype(np.uint8)
    answers: dict[str, str] = {}
    failures: list[str] = []
    with Session(bundle, target=target) as session:
        for mode in MODES:
            try:
                answers[mode] = session.ask(ramp, "find the red cup", mode=mode).text
            except EdgeMMError:
                raise
            except Exception as error:  # e.g. NaN; onnxruntime's own classes share no base
                failures.append(f"{error} (mode {mode})")
    return {"answers": answers, "failures": failures}


def _repeat(bundle: Bundle, target: str, references: References) -> dict[str, Any]:
    """Ask what torch was asked, and hold the figures to the gate of the export."""
    from edge_mm_runtime.agreement import allowing_one, failures, measure
    from edge_mm_runtime.references import read_gate, repeat

    gate, bins = read_gate(bundle), bundle.manifest.grounding.bins
    pairs, missed = repeat(references, bundle, target)
    figures = measure("all", pairs, bins) if pairs else None
    if figures is not None:
        gate = allowing_one(gate, figures)
        missed += failures(figures, gate)
    by_type = {
        name: measure(name, [pair for pair in pairs if pair.type == name], bins)
        for name in sorted({pair.type for pair in pairs})
    }
    return {
        "gate": msgspec.to_builtins(gate),
        "figures": msgspec.to_builtins(figures),
        "by_type": msgspec.to_builtins(by_type),
        "failures": missed,
    }


def _table(report: dict[str, Any]) -> list[str]:
    """A line for each type of question, for all of them, and for the gate."""
    rows = [*report["by_type"].values(), *filter(None, [report["figures"]])]
    cells = [["", *_COLUMNS.values()]]
    cells += [[row["step"], *(_number(row[name]) for name in _COLUMNS)] for row in rows]
    gate = report["gate"]
    cells.append(["at least", *(_number(gate[name]) if name in gate else "" for name in _COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm check",
        description="Check a bundle's files, then ask its graphs what torch was asked when it was "
        "exported and compare the answers. Exit code 1 where they fall below the export's gate.",
        epilog="example: edge-mm check my_bundle --json",
    )
    parser.add_argument(
        "bundle", nargs="?", default="default", help="bundle folder (default: the shipped)"
    )
    parser.add_argument(
        "--target",
        metavar="T",
        help="whose graphs are asked, on ONNX Runtime's CPU provider (default: cpu, or the first)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)
