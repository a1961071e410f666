"""What an export costs and what it loses: time, peak memory, size and answers of every precision.

python bench/export.py [--model models/nano] [--targets cpu tensorrt] [--precisions int8 int4]
                       [--pictures 4] [--json export.json]

One process for each target and precision, one after the other; nothing that it writes is kept. Peak
memory is that of the process, mapped files included, and about 0.6 GB of it are libraries. An
export that falls below its gate or fails is a row too. int4, fp8 and w8a8 (but of cpu) are
fitted to other pictures than those of the verification (data/exam/threshold, rendered where they
are missing).
--pictures makes a quick trial of it: only the first so many, to verify on and to fit to.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from edge_mm.data.tabletop.write import make_dataset
from edge_mm.demo.questions import shipped_frames
from edge_mm_export.errors import VerificationError
from edge_mm_export.export import export_checkpoint
from edge_mm_export.precision import PRECISIONS
from edge_mm_runtime.bundle import load_bundle
from edge_mm_runtime.measure import peak_memory_bytes

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


class Row(msgspec.Struct, kw_only=True):
    """One export; what has no bundle says why in `failed`."""

    target: str
    precision: str
    seconds: float = 0.0
    peak_mb: float = 0.0
    bundle_bytes: int = 0
    same_answers: float = 0.0
    mean_iou: float = 0.0
    fp32_parts: int = 0
    failed: str = ""

    def cells(self) -> tuple[str, ...]:
        """As Markdown has them."""
        cost = (self.target, self.precision, f"{self.seconds:.0f}", f"{self.peak_mb:.0f}")
        if self.failed:
            return (*cost, "", self.failed, "", "")
        return (
            *cost,
            f"{self.bundle_bytes / 1e6:.1f}",
            f"{self.same_answers:.3f}",
            f"{self.mean_iou:.4f}",
            str(self.fp32_parts),
        )


def main() -> None:
    """Export, each in a process of its own, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("models/nano"), help="checkpoint")
    parser.add_argument("--targets", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--precisions", nargs="+", help="only these, where a target has them")
    parser.add_argument("--verify-data", type=Path, default=shipped_frames())
    parser.add_argument("--calibration-data", type=Path, default=CALIBRATION)
    parser.add_argument("--pictures", type=int, help="only the first so many of both")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(msgspec.json.encode(measure(arguments)).decode())
        return
    if arguments.calibration_data == CALIBRATION and not (CALIBRATION / "scenes.json").is_file():
        make_dataset(CALIBRATION, PICTURES, SEED, "val")
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.pictures:
            for name in ("verify_data", "calibration_data"):
                folder = Path(scratch) / name
                cut(getattr(arguments, name), folder, arguments.pictures)
                setattr(arguments, name, folder)
        rows = []
        print("| " + " | ".join(HEADINGS) + " |")
        print("|---" * len(HEADINGS) + "|", flush=True)
        for target in arguments.targets:
            for precision in arguments.precisions or PRECISIONS[target]:
                if precision in PRECISIONS[target]:
                    rows.append(measured_apart(arguments, target, precision))
                    print("| " + " | ".join(rows[-1].cells()) + " |", flush=True)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")


def cut(folder: Path, to: Path, pictures: int) -> None:
    """A folder like `folder`, with links to its files and questions about the first pictures."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).symlink_to(path.resolve())
    asked = (folder / "questions.json").is_file()
    name, listed = ("questions.json", "pictures") if asked else ("scenes.json", "scenes")
    content: dict[str, Any] = json.loads((folder / name).read_text())
    (to / name).unlink()
    (to / name).write_text(json.dumps(content | {listed: content[listed][:pictures]}))


def measured_apart(arguments: argparse.Namespace, target: str, precision: str) -> Row:
    """One export, made by a process of its own."""
    options = ["--model", arguments.model, "--targets", target, "--precisions", precision]
    options += ["--verify-data", arguments.verify_data]
    options += ["--calibration-data", arguments.calibration_data]
    command = [sys.executable, __file__, "--one", *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # it has said why on stderr
        return Row(target=target, precision=precision, failed=f"exit code {done.returncode}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Row)


def measure(arguments: argparse.Namespace) -> Row:
    """Export here."""
    ((target,), (precision,)) = arguments.targets, arguments.precisions
    row = Row(target=target, precision=precision)
    fitted = PRECISIONS[target][precision].is_calibrated
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
                calibration=arguments.calibration_data if fitted else None,
                say=lambda line: print(line, file=sys.stderr),
            )
        except VerificationError as error:
            print(error, file=sys.stderr)
            row.failed = "below its gate"
        else:
            manifest = load_bundle(out).manifest
            final = manifest.verification["steps"][-1]
            islands = manifest.verification["fp32_islands"]
            row.bundle_bytes = sum(file.bytes for file in manifest.files)
            row.same_answers, row.mean_iou = final["same_answers"], final["mean_iou"]
            row.fp32_parts = len(islands["vision"]) + len(islands["decoder"])
    row.seconds = time.perf_counter() - started
    row.peak_mb = peak_memory_bytes() / 1e6
    return row


if __name__ == "__main__":
    main()
