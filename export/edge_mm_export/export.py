"""Export: a checkpoint becomes a verified bundle, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_mm.model.checkpoint import WEIGHTS
from edge_mm_export.checkpoint import open_checkpoint
from edge_mm_export.errors import ExportError, VerificationError
from edge_mm_export.families.files import is_transformers
from edge_mm_export.islands import NO_ISLANDS
from edge_mm_export.precision import PRECISIONS, Precision, export_steps, find_precision
from edge_mm_export.references import write_references
from edge_mm_export.report import render_report
from edge_mm_export.samples import read_samples
from edge_mm_export.steps import Calibration, Source, Step
from edge_mm_export.storage import spooled
from edge_mm_export.subject import Subject
from edge_mm_export.verify import Gate, Verification
from edge_mm_export.vision import has_int8_tower, trace_vision
from edge_mm_runtime.bundle import load_bundle, write_manifest

MOST_ISLANDS = 16
"""Parts of 16-bit graphs that may stay fp32; a model that needs more of them is one for bf16."""

_MAKING = ".edge-mm-export-"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    frames: Path,
    target: str = "cpu",
    precision: str | None = None,
    calibration: Path | None = None,
    image_size: tuple[int, int] | None = None,
    context: int | None = None,
    most_islands: int = MOST_ISLANDS,
    gate: Gate | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of a model to `out` (new or empty), verified on the data in `frames`.

    checkpoint    one of ours, or a vision-language model in the format of transformers
    precision     None: the target's default, see `precision.py`
    calibration   frames to quantise on (int4, fp8, w8a8 but of cpu): as `frames`, but others
    image_size    (width, height) in pixels, for models of transformers that take every size
    context       tokens of the cache, for models of transformers
    most_islands  how many parts of 16-bit graphs may stay fp32 if a step falls below the gate
                  without; which ones is found out
    say           is told what is being done
    Raises VerificationError when a step falls below the gate, ExportError and other EdgeMMErrors
    for what cannot be exported; `out` is then left as it was.
    """
    precision, stored = find_precision(target, precision)
    check_folders(checkpoint, out)
    quantised_on = _calibration(calibration, frames, precision, stored)
    samples = read_samples(frames)
    with beside(out) as scratch:
        say(f"reading {checkpoint}")
        subject = _open(checkpoint, image_size, context)
        subject.check(target, precision)
        samples = subject.askable(samples)
        for note in subject.notes:
            say(f"note: {note}")
        say(f"this takes up to about {subject.memory(stored) / 1e9:.1f} GB of memory")
        say("tracing the vision graph")
        vision = trace_vision(
            subject.vision_graph(),
            width=subject.width,
            height=subject.height,
            box_head=subject.box_head,
            target=target,
        )
        vision = spooled(vision, scratch / "vision.constants")
        source = Source(subject, vision, quantised_on)
        steps = [Step(*step, scratch) for step in export_steps(target, precision)]
        exact, final = steps[0], steps[-1]
        exact.write(source)
        say(f"asking torch {len(samples)} questions")
        exam = exact.ask_torch(source, samples, gate or Gate())

        islands = NO_ISLANDS
        for step in steps:
            if step is not exact:
                say(f"building the {step.name} graphs")
                step.quantise(source, exact)
                step.write(source, islands)
            say(f"asking the {step.name} graphs")
            subject.release()
            while missed := step.sit(exam):
                if step.spare_convolutions(source, exact):
                    say(f"{', '.join(missed)}: once more, with the tower's convolutions in fp32")
                    step.write(source, islands)
                    continue
                more = step.more_islands(source, exam, most_islands)
                if more is None:
                    drifted = step.first_drifted(source, exam, exact)
                    raise VerificationError(
                        f"no bundle written: the {step.name} graphs of {checkpoint} fall below "
                        f"the gate ({', '.join(missed)}); first module that drifted: {drifted}"
                        + (f"; in fp32 already: {step.islands}" if step.islands else "")
                        + ("" if step is exact else _try(target, precision))
                    )
                say(f"{', '.join(missed)}: once more, in fp32: {more}")
                step.write(source, more)
            islands = step.islands
            subject.release()  # what the engine had

        verification = Verification(
            data=frames.name,
            frames=len({sample.picture for sample in samples}),
            questions=len(samples),
            gate=exam.gate,
            steps=tuple(step.figures for step in steps),
        )
        kept = msgspec.to_builtins(verification)
        kept["quantisation"] = final.quantisation
        kept["fp32_islands"] = msgspec.to_builtins(islands)
        kept["notes"] = list(subject.notes)
        kept["confidence"] = subject.confidence
        folder = final.folder
        manifest = load_bundle(folder, verify="size").manifest
        manifest = msgspec.structs.replace(manifest, verification=kept)
        answers = {"torch": exam.torch_traces} | {step.name: step.traces for step in steps}
        (folder / "report.html").write_text(
            render_report(manifest, verification, samples, answers), encoding="utf-8"
        )
        write_references(folder, samples, exam.torch_traces, final.traces)
        write_manifest(folder, manifest)
        folder.rename(out)
    say(f"wrote {out}: {_megabytes(out):.1f} MB")
    return out


def _open(checkpoint: Path, image_size: tuple[int, int] | None, context: int | None) -> Subject:
    """What is exported: one of ours, or a folder of transformers."""
    if is_transformers(checkpoint):
        from edge_mm_export.families.subject import open_folder

        return open_folder(checkpoint, size=image_size, context=context)
    if image_size or context:
        raise ExportError(
            f"{checkpoint} has its image size and context from its training: --image-size and "
            "--context are for models in the format of transformers"
        )
    return open_checkpoint(checkpoint)


def check_folders(checkpoint: Path, out: Path) -> None:
    """Refuse a checkpoint that is a file or a pickle, and a folder that cannot be written to."""
    if checkpoint.is_file():
        raise ExportError(f"{checkpoint} is a file: give the folder that `edge-mm train` made")
    pickles = sorted(path.name for pattern in _PICKLES for path in checkpoint.glob(pattern))
    if pickles and not (checkpoint / WEIGHTS).is_file() and not is_transformers(checkpoint):
        raise ExportError(
            f"{checkpoint} has no {WEIGHTS}, and {pickles[0]} is a pickle, which could run code "
            "when opened: save the weights as safetensors"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder: name a new one")
    if not out.parent.is_dir():
        raise ExportError(f"there is no folder {out.parent} to write {out.name} in")


def _calibration(
    folder: Path | None, frames: Path, precision: str, stored: Precision
) -> Calibration | None:
    """The questions to quantise on, if the precision needs any: never those to verify on."""
    if not stored.is_calibrated and (folder is None or not has_int8_tower(stored)):
        return None
    if folder is None:
        raise ExportError(
            f"precision {precision!r} is fitted to what the model reads: give frames with "
            "--calibration-data DIR, others than those it is verified on"
        )
    if folder.resolve() == frames.resolve():
        raise ExportError(
            f"{folder} is what the export is verified on: figures on frames that it was fitted to "
            "flatter it; give others with --calibration-data or --verify-data"
        )
    return Calibration(folder.name, read_samples(folder))


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder for what is being made, on the disk of `out`; it is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix=_MAKING, dir=out.parent) as folder:
            yield Path(folder)
    except OSError as error:
        if _MAKING not in str(error.filename or _MAKING):  # of something that was read
            raise
        raise ExportError(
            f"{out} cannot be written: {error.strerror or error}; nothing of it is left"
        ) from error


def _try(target: str, precision: str) -> str:
    others = [name for name in PRECISIONS[target] if name != precision]
    return f"; try --precision {' or '.join(others)}"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
