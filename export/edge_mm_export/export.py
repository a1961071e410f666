"""Export: a checkpoint becomes a verified bundle, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_mm.model.checkpoint import load_model
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_export.bundle import has_box_head, write_bundle
from edge_mm_export.decoder import check_target
from edge_mm_export.drift import first_drifted
from edge_mm_export.errors import ExportError, VerificationError
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.report import render_report
from edge_mm_export.samples import read_samples
from edge_mm_export.verify import Gate, Verification, compare, failures, worst
from edge_mm_export.vision import trace_vision
from edge_mm_runtime.bundle import load_bundle, write_manifest

EXACT = "fp32"


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    frames: Path,
    target: str = "cpu",
    precision: str = "int8",
    gate: Gate | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of a checkpoint to `out` (new or empty), verified on the data in `frames`.

    `say` is told what is being done. Raises VerificationError when a step falls below the gate,
    ExportError and other EdgeMMErrors for what cannot be exported; `out` is then left as it was.
    """
    gate = gate or Gate()
    check_target(target, precision)
    _check_output(out)
    samples = read_samples(frames)
    say(f"reading {checkpoint}")
    model = load_model(checkpoint)
    image, bins = model.config.image, model.config.grounding.bins
    say("tracing the vision graph")
    vision = trace_vision(
        model.vision_graph(), width=image.width, height=image.height, box_head=has_box_head(model)
    )
    with tempfile.TemporaryDirectory(prefix=".edge-mm-export-", dir=out.parent) as temporary:
        scratch = Path(temporary)
        folders = {step: scratch / step for step in (EXACT, precision)}
        for step, folder in folders.items():
            say(f"building {step} graphs for {target}")
            write_bundle(folder, checkpoint, model, vision, target=target, precision=step)

        say(f"asking torch {len(samples)} questions")
        reference = ProbedSession(folders[EXACT], TorchVision(model), TorchDecoder(model))
        torch_traces = trace_all(reference, samples)
        steps = []
        for step, folder in folders.items():
            say(f"asking the {step} graphs")
            traces = trace_all(ProbedSession(folder), samples)
            figures = compare(step, samples, torch_traces, traces, image, bins)
            steps.append(figures)
            if missed := failures(figures, gate):
                case = worst(torch_traces, traces)
                drifted = first_drifted(
                    model,
                    load_bundle(folder, verify="size"),
                    target,
                    image.apply(samples[case].frame),
                    list(torch_traces[case].prompt),
                    scratch,
                )
                raise VerificationError(
                    f"no bundle written: the {step} graphs of {checkpoint} fall below the gate "
                    f"({', '.join(missed)}); first module that drifted: {drifted}"
                    + ("" if step == EXACT else f"; try --precision {EXACT}")
                )

        verification = Verification(
            data=frames.name,
            frames=len({sample.picture for sample in samples}),
            questions=len(samples),
            gate=gate,
            steps=tuple(steps),
        )
        manifest = load_bundle(folder, verify="size").manifest
        page = render_report(
            manifest.name, target, precision, verification, samples, torch_traces, traces
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
        measured = msgspec.to_builtins(verification)
        write_manifest(folder, msgspec.structs.replace(manifest, verification=measured))
        folder.rename(out)
    say(f"wrote {out}: {_megabytes(out):.1f} MB")
    return out


def _check_output(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder: name a new one")
    if not out.parent.is_dir():
        raise ExportError(f"there is no folder {out.parent} to write {out.name} in")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
