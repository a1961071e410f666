"""What an export costs and what it loses: time, peak memory, size and answers of every precision.

python bench/export.py [--model models/nano] [--targets cpu tensorrt] [--precisions int8 int4]

One process for each target and precision, one after the other; nothing that it writes is kept. An
export that falls below its gate is a row too. int4, w8a8 and fp8 are fitted to other pictures than
those of the verification (data/exam/threshold, rendered where they are missing).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edge_mm.data.tabletop.write import make_dataset
from edge_mm.demo.questions import shipped_frames
from edge_mm_export.errors import VerificationError
from edge_mm_export.export import export_checkpoint
from edge_mm_export.precision import PRECISIONS
from edge_mm_runtime.bundle import load_bundle

CALIBRATION, PICTURES, SEED = Path("data/exam/threshold"), 60, 2
HEADINGS = (
    "target",
    "precision",
    "s",
    "peak MB",
    "bundle MB",
    "same answers",
    "mean IoU",
    "fp32 parts",
)


def main() -> None:
    """Export, each in a process of its own, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/nano"), help="checkpoint")
    parser.add_argument("--targets", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--precisions", nargs="+", help="only these, where a target has them")
    parser.add_argument("--verify-data", type=Path, default=shipped_frames())
    parser.add_argument("--calibration-data", type=Path, default=CALIBRATION)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    if arguments.calibration_data == CALIBRATION and not (CALIBRATION / "scenes.json").is_file():
        make_dataset(CALIBRATION, PICTURES, SEED, "val")
    print("| " + " | ".join(HEADINGS) + " |")
    print("|---" * len(HEADINGS) + "|", flush=True)
    for target in arguments.targets:
        for precision in arguments.precisions or PRECISIONS[target]:
            if precision in PRECISIONS[target]:
                cells = measured_apart(arguments, target, precision)
                print("| " + " | ".join((target, precision, *cells)) + " |", flush=True)


def measured_apart(arguments: argparse.Namespace, target: str, precision: str) -> list[str]:
    """The cells of one export, made by a process of its own."""
    options = ["--model", arguments.model, "--targets", target, "--precisions", precision]
    options += ["--verify-data", arguments.verify_data]
    options += ["--calibration-data", arguments.calibration_data]
    command = [sys.executable, __file__, "--one", *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    cells: list[str] = json.loads(done.stdout.splitlines()[-1])
    return cells


def measure(arguments: argparse.Namespace) -> list[str]:
    """Export here: seconds, peak memory, bytes, same answers, mean IoU and islands, as cells."""
    ((target,), (precision,)) = arguments.targets, arguments.precisions
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        try:
            export_checkpoint(
                arguments.model,
                out,
                frames=arguments.verify_data,
                target=target,
                precision=precision,
                calibration=arguments.calibration_data,
                say=lambda line: print(line, file=sys.stderr),
            )
        except VerificationError as error:
            print(error, file=sys.stderr)
            found = ["", "below its gate", "", ""]
        else:
            manifest = load_bundle(out).manifest
            final = manifest.verification["steps"][-1]
            islands = manifest.verification["fp32_islands"]
            found = [
                f"{sum(file.bytes for file in manifest.files) / 1e6:.1f}",
                f"{final['same_answers']:.3f}",
                f"{final['mean_iou']:.4f}",
                str(len(islands["vision"]) + len(islands["decoder"])),
            ]
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return [f"{seconds:.0f}", f"{peak:.0f}", *found]


if __name__ == "__main__":
    main()
