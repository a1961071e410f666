"""Export: a checkpoint becomes a verified bundle, or nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from edge_mm.model.checkpoint import load_model
from edge_mm.model.runners import TorchDecoder, TorchVision
from edge_mm_export.bundle import has_box_head, write_bundle
from edge_mm_export.calibrate import activation_scales, measure_ranges
from edge_mm_export.drift import first_drifted
from edge_mm_export.errors import ExportError, VerificationError
from edge_mm_export.precision import EXACT, PRECISIONS, export_steps, find_precision
from edge_mm_export.probe import ProbedSession, trace_all
from edge_mm_export.references import write_references
from edge_mm_export.report import render_report
from edge_mm_export.samples import read_samples
from edge_mm_export.verify import Gate, Verification, compare, failures, worst
from edge_mm_export.vision import trace_vision
from edge_mm_runtime.bundle import load_bundle, write_manifest


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    frames: Path,
    target: str = "cpu",
    precision: str | None = None,
    calibration: Path | None = None,
    fp32_islands: Collection[str] = (),
    gate: Gate | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of a checkpoint to `out` (new or empty), verified on the data in `frames`.

    precision     None: the target's default, see `precision.py`
    calibration   frames that w8a8 and fp8 measure their activations on, as `frames`
    fp32_islands  nodes of the vision graph that stay fp32 where the target computes in 16 bits
    say           is told what is being done
    Raises VerificationError when a step falls below the gate, ExportError and other EdgeMMErrors
    for what cannot be exported; `out` is then left as it was.
    """
    gate = gate or Gate()
    precision, stored = find_precision(target, precision)
    _check_output(out)
    if stored.needs_scales and calibration is None:
        raise ExportError(
            f"precision {precision!r} measures activations: give frames to do it on with "
            "--calibration-data DIR"
        )
    samples = read_samples(frames)
    say(f"reading {checkpoint}")
    model = load_model(checkpoint)
    image, bins = model.config.image, model.config.grounding.bins
    say("tracing the vision graph")
    vision = trace_vision(
        model.vision_graph(),
        width=image.width,
        height=image.height,
        box_head=has_box_head(model),
        target=target,
    )
    with tempfile.TemporaryDirectory(prefix=".edge-mm-export-", dir=out.parent) as temporary:
        scratch = Path(temporary)
        steps = [_Step(*step, scratch) for step in export_steps(target, precision)]
        exact, final = steps[0], steps[-1]
        for step in steps:
            scales = None
            if step.stored.needs_scales and calibration is not None:
                say("measuring activations")
                ranges = measure_ranges(exact.folder, read_samples(calibration), scratch)
                scales = activation_scales(ranges, step.stored)
            say(f"building the {step.name} graphs")
            write_bundle(
                step.folder,
                checkpoint,
                model,
                vision,
                target=step.target,
                precision=step.precision,
                scales=scales,
                fp32_islands=fp32_islands,
            )

        say(f"asking torch {len(samples)} questions")
        reference = ProbedSession(exact.folder, TorchVision(model), TorchDecoder(model))
        torch_traces = trace_all(reference, samples)
        measured = []
        for step in steps:
            say(f"asking the {step.name} graphs")
            traces = trace_all(ProbedSession(step.folder, target=step.target), samples)
            figures = compare(step.name, samples, torch_traces, traces, image, bins)
            measured.append(figures)
            if missed := failures(figures, gate):
                case = worst(torch_traces, traces)
                drifted = first_drifted(
                    model,
                    load_bundle(step.folder, verify="size"),
                    step.target,
                    image.apply(samples[case].frame),
                    list(torch_traces[case].prompt),
                    scratch,
                    exact=load_bundle(exact.folder, verify="size"),
                )
                others = [name for name in PRECISIONS[target] if name != precision]
                raise VerificationError(
                    f"no bundle written: the {step.name} graphs of {checkpoint} fall below the "
                    f"gate ({', '.join(missed)}); first module that drifted: {drifted}"
                    + ("" if step is exact else f"; try --precision {' or '.join(others)}")
                )

        verification = Verification(
            data=frames.name,
            frames=len({sample.picture for sample in samples}),
            questions=len(samples),
            gate=gate,
            steps=tuple(measured),
        )
        folder = final.folder
        manifest = load_bundle(folder, verify="size").manifest
        page = render_report(
            manifest.name, target, precision, verification, samples, torch_traces, traces
        )
        (folder / "report.html").write_text(page, encoding="utf-8")
        write_references(folder, samples, torch_traces, traces)
        kept = msgspec.to_builtins(verification)
        write_manifest(folder, msgspec.structs.replace(manifest, verification=kept))
        folder.rename(out)
    say(f"wrote {out}: {_megabytes(out):.1f} MB")
    return out


class _Step:
    """One pair of graphs on the way to the bundle; the last one becomes it."""

    def __init__(self, target: str, precision: str, scratch: Path) -> None:
        self.target, self.precision = target, precision
        self.stored = PRECISIONS[target][precision]
        self.name = precision if target == EXACT[0] else f"{target} {precision}"
        self.folder = scratch / self.name.replace(" ", "-")


def _check_output(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is not an empty folder: name a new one")
    if not out.parent.is_dir():
        raise ExportError(f"there is no folder {out.parent} to write {out.name} in")


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
