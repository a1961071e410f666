"""Export: a checkpoint becomes a verified bundle, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_mm.model.checkpoint import WEIGHTS, load_model
from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.session import open_model
from edge_mm_export.bundle import export_memory, has_box_head
from edge_mm_export.errors import ExportError, VerificationError
from edge_mm_export.islands import NO_ISLANDS
from edge_mm_export.precision import PRECISIONS, Precision, export_steps, find_precision
from edge_mm_export.references import write_references
from edge_mm_export.report import render_report
from edge_mm_export.samples import read_samples
from edge_mm_export.steps import Calibration, Source, Step
from edge_mm_export.verify import Gate, Verification
from edge_mm_export.vision import trace_vision
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
    most_islands: int = MOST_ISLANDS,
    gate: Gate | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of a checkpoint to `out` (new or empty), verified on the data in `frames`.

    precision     None: the target's default, see `precision.py`
    calibration   frames to quantise on (int4, w8a8, fp8): as `frames`, but others
    most_islands  how many parts of 16-bit graphs may stay fp32 if a step falls below the gate
                  without; which ones is found out
    say           is told what is being done
    Raises VerificationError when a step falls below the gate, ExportError and other EdgeMMErrors
    for what cannot be exported; `out` is then left as it was.
    """
    precision, stored = find_precision(target, precision)
    _check_folders(checkpoint, out)
    quantised_on = _calibration(calibration, frames, precision, stored)
    samples = read_samples(frames)
    with _beside(out) as scratch:
        say(f"reading {checkpoint}")
        model = load_model(checkpoint)
        _check_model(checkpoint, model)
        say(f"this takes up to about {export_memory(model, stored) / 1e9:.1f} GB of memory")
        say("tracing the vision graph")
        vision = trace_vision(
            model.vision_graph(),
            width=model.config.image.width,
            height=model.config.image.height,
            box_head=has_box_head(model),
            target=target,
        )
        source = Source(checkpoint, model, vision, quantised_on)
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
            while missed := step.sit(exam):
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


def _check_folders(checkpoint: Path, out: Path) -> None:
    if checkpoint.is_file():
        raise ExportError(f"{checkpoint} is a file: give the folder that `edge-mm train` made")
    pickles = sorted(path.name for pattern in _PICKLES for path in checkpoint.glob(pattern))
    if pickles and not (checkpoint / WEIGHTS).is_file():
        raise ExportError(
            f"{checkpoint} has no {WEIGHTS}, and {pickles[0]} is a pickle, which could run code "
            "when opened: save the weights as safetensors"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder: name a new one")
    if not out.parent.is_dir():
        raise ExportError(f"there is no folder {out.parent} to write {out.name} in")


def _check_model(checkpoint: Path, model: EdgeMM) -> None:
    """Refuse what would only be found out once graphs are built of it."""
    for name, weight in model.state_dict().items():
        if not weight.isfinite().all():
            raise ExportError(f"{checkpoint / WEIGHTS}: {name} has values that are not finite")
    open_model(model, checkpoint, model.config.grounding).close()  # with the tokenizer beside it


def _calibration(
    folder: Path | None, frames: Path, precision: str, stored: Precision
) -> Calibration | None:
    """The questions to quantise on, if the precision needs any: never those to verify on."""
    if not stored.is_calibrated:
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
def _beside(out: Path) -> Iterator[Path]:
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
