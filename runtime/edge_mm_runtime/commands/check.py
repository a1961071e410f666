"""`edge-mm check BUNDLE`: its files, and that it answers as torch did when it was exported.

On another device with --device. For tensorrt, the default there: that the engines of this machine
compute what their graphs say, step by step, with ONNX Runtime's CPU provider as the reference.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from edge_mm_runtime.bundle import Bundle
    from edge_mm_runtime.devices import Device
    from edge_mm_runtime.engines.compare import Comparison, Engines, Reading
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

_ENGINES = {
    "cpu": "ONNX Runtime's CPU provider",
    "cuda": "ONNX Runtime's CUDA provider",
    "openvino": "OpenVINO and ONNX Runtime's CPU provider",
}


def main(argv: list[str]) -> int:
    """Print what was checked; 0 when all is well, 1 when an answer or a figure fails."""
    args = _parse(argv)
    from edge_mm_runtime.bundle import load_bundle
    from edge_mm_runtime.references import read_references
    from edge_mm_runtime.session import default_target

    bundle = load_bundle(args.bundle)
    if args.device == "tensorrt":
        return _check_engines(bundle, args.target, args.json)
    target = args.target or default_target(bundle, args.device)
    manifest, precision = bundle.manifest, bundle.graphs(target).precision
    references = read_references(bundle)
    answered = (
        _ask(bundle, target, args.device)
        if references is None
        else _repeat(bundle, target, args.device, references)
    )
    report: dict[str, Any] = {
        "bundle": str(bundle.folder),
        "name": manifest.name,
        "schema": manifest.schema,
        "files": len(manifest.files),
        "bytes": sum(entry.bytes for entry in manifest.files),
        "target": target,
        "device": args.device,
        "precision": precision,
        "passed": not answered["failures"],
        **answered,
    }
    print(msgspec.json.encode(report).decode() if args.json else describe(report))
    return 0 if report["passed"] else 1


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    graphs = f"{report['target']} {report['precision']} graphs on {_ENGINES[report['device']]}"
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


def _check_engines(bundle: Bundle, target: str | None, as_json: bool) -> int:
    """Compare this machine's engines with ONNX Runtime; the exit code."""
    from edge_mm_runtime.engines.compare import compare_device

    engines, comparison = compare_device(bundle, target)
    if as_json:
        passed = not comparison.failures
        report = {"passed": passed, "engines": engines, **msgspec.structs.asdict(comparison)}
        print(msgspec.json.encode(report).decode())
    else:
        print(describe_device(engines, comparison))
    return 1 if comparison.failures else 0


def describe_device(engines: Engines, comparison: Comparison) -> str:
    """How far the device is from the reference, for people: by step, then by question."""
    import numpy as np

    made = engines.machine
    flavour = "TensorRT" if made.flavour == "tensorrt" else "TensorRT-RTX"
    graph = engines.graph_error
    lines = [
        f"{engines.folder}: {made.gpu} (SM{made.compute_capability}), {flavour} {made.tensorrt}, "
        f"{engines.target} {engines.precision}",
        "decoding: replayed from a CUDA graph" if graph is None else f"decoding: NO graph: {graph}",
        f"{len(comparison.questions)} questions, each step on the inputs of ONNX Runtime's CPU "
        "provider and compared with it; cosine is the least, the difference the largest:",
    ]
    cells = [["step", "output", "passes", "cosine", "difference", "same id"]]
    for step, tensor, readings in _by_step(comparison):
        numbers = np.array([(reading.cosine, reading.difference) for reading in readings])
        cosine, difference = (float(x) for x in (numbers[:, 0].min(), numbers[:, 1].max()))
        same = _share([reading.same_id for reading in readings])
        counted = str(len(readings))
        cells.append([step, tensor, counted, f"{cosine:.6f}", f"{difference:.4g}", same])
    lines += _aligned(cells, words=2)
    for item in comparison.questions:
        where = f"{item.picture}, {item.question!r}"
        if item.parts_at is not None:
            lines.append(f"{where}: parts at {item.parts_at.step} ({item.parts_at.tensor})")
        if item.ids_part_at is not None:
            lines.append(
                f"{where}: alone it chose another id at place {item.ids_part_at} and said "
                f"{item.device_text!r}, ONNX Runtime {item.text!r}"
            )
    if comparison.figures is not None:
        figures = comparison.figures
        lines.append(
            f"alone: same answers {figures.same_answers:.4f}, same tokens "
            f"{figures.same_tokens:.4f}, {figures.boxes} boxes, mean IoU {figures.mean_iou:.4f}, "
            f"within half a bin {figures.within_half_bin:.4f}"
        )
    lines += [f"FAILED: {failure}" for failure in comparison.failures]
    return "\n".join(lines)


def _by_step(comparison: Comparison) -> list[tuple[str, str, list[Reading]]]:
    """(step, output, readings of all questions), steps in the order in which they follow."""
    found: dict[tuple[str, str], list[Reading]] = {}
    for item in comparison.questions:
        for reading in item.readings:
            found.setdefault((reading.step, reading.tensor), []).append(reading)
    first = {"vision": -2, "prefill": -1}

    def place(step: str) -> int:
        return first[step] if step in first else int(step.split()[1])

    ordered = sorted(found.items(), key=lambda item: place(item[0][0]))
    return [(step, tensor, readings) for (step, tensor), readings in ordered]


def _share(same: list[bool | None]) -> str:
    return "" if None in same else f"{sum(map(bool, same))} of {len(same)}"


def _ask(bundle: Bundle, target: str, device: Device) -> dict[str, Any]:
    """Ask about a plain picture in every mode: what there is to check without references."""
    import numpy as np

    from edge_mm_runtime.codecs import open_codec
    from edge_mm_runtime.errors import EdgeMMError
    from edge_mm_runtime.session import Session

    ramp = np.linspace(0, 255, 240 * 320 * 3).reshape(240, 320, 3).astype(np.uint8)
    answers: dict[str, str] = {}
    failures: list[str] = []
    with Session(bundle, target=target, device=device) as session:
        for mode in open_codec(bundle.manifest.grounding).modes:
            try:
                answers[mode] = session.ask(ramp, "find the red cup", mode=mode).text
            except EdgeMMError:
                raise
            except Exception as error:  # e.g. NaN; onnxruntime's own classes share no base
                failures.append(f"{error} (mode {mode})")
    return {"answers": answers, "failures": failures}


def _repeat(bundle: Bundle, target: str, device: Device, references: References) -> dict[str, Any]:
    """Ask what torch was asked, and hold the figures to the gate of the export."""
    from edge_mm_runtime.agreement import allowing_one, failures, measure
    from edge_mm_runtime.references import read_gate, repeat

    gate, bins = read_gate(bundle), bundle.manifest.grounding.bins
    pairs, missed = repeat(references, bundle, target, device)
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
    return _aligned(cells, words=1)


def _aligned(cells: list[list[str]], words: int) -> list[str]:
    """Lines of a table whose first `words` columns are words and the others numbers."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _parse(argv: list[str]) -> argparse.Namespace:
    from edge_mm_runtime.devices import DEVICES

    parser = argparse.ArgumentParser(
        prog="edge-mm check",
        description="Check a bundle's files, then ask its graphs what torch was asked when it was "
        "exported and compare the answers. With --device tensorrt: compare this machine's engines "
        "with ONNX Runtime on the same graphs, step by step, and tell where they part. Exit code 1 "
        "where the answers fall below the export's gate.",
        epilog="examples: edge-mm check my_bundle --json; edge-mm check --device openvino",
    )
    parser.add_argument(
        "bundle", nargs="?", default="default", help="bundle folder (default: the shipped)"
    )
    parser.add_argument(
        "--target",
        metavar="T",
        help="whose graphs are asked (default: cpu, or the first; of tensorrt that of the engines)",
    )
    parser.add_argument(
        "--device",
        nargs="?",
        choices=DEVICES,
        default="cpu",
        const="tensorrt",
        help="where the graphs run (default: cpu); tensorrt, or no name: the engines that "
        "`edge-mm build` made here",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)
