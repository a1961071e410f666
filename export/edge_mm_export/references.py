"""The references of a bundle: some of the frames that it was verified on, and torch's answers.

The schema is the runtime's (`edge_mm_runtime.references`), which asks them again on the robot.

A frame is stored as the model sees it, resized and before normalisation, where the transform leaves
a frame of that size alone: a tenth of the pixels, and the same `pixel_values` to the bit. It is
stored as PNG, since decoders of JPEG differ in the last bit from machine to machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edge_mm_export.probe import MAX_NEW_TOKENS, Trace
from edge_mm_export.samples import Sample
from edge_mm_export.verify import Gate, compare, failures
from edge_mm_runtime.answer import GroundedObject
from edge_mm_runtime.bundle import BundleManifest, load_bundle
from edge_mm_runtime.image import Frame, ImageTransform, Placement
from edge_mm_runtime.references import FILE, FOLDER, Reference, References

MOST_FRAMES = 8
MOST_BYTES = 1_400_000  # of all pictures together
TOP_LOGITS = 16


def write_references(
    folder: Path,
    samples: Sequence[Sample],
    traces: Sequence[Trace],
    exported: Sequence[Trace] | None = None,
) -> None:
    """Write `references/` into the bundle in `folder`, before its last `write_manifest`.

    traces    torch's, one for each sample
    exported  those of the bundle's graphs: a frame on which they fall below the default gate is
              no reference. The gate forgives a few differences among all questions of an export;
              among these few it would refuse the bundle that has just passed it
    """
    manifest = load_bundle(folder, verify="size").manifest
    frames: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        frames.setdefault(sample.picture, []).append(index)
    if exported is not None:
        faithful = {
            picture: questions
            for picture, questions in frames.items()
            if _agree(manifest, questions, samples, traces, exported)
        }
        frames = faithful or frames
    (folder / FOLDER).mkdir()
    references: list[Reference] = []
    room, written = MOST_BYTES, 0
    for questions in _by_coverage(frames, samples, traces):
        stored = as_seen(samples[questions[0]].frame, manifest.image)
        _, png = cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if written and png.nbytes > room:
            continue
        name = f"{written:02d}.png"
        (folder / FOLDER / name).write_bytes(png.tobytes())
        references += [
            _reference(name, stored, samples[index], traces[index], manifest.image)
            for index in questions
        ]
        room, written = room - png.nbytes, written + 1
        if written == MOST_FRAMES:
            break
    kept = References(max_new_tokens=MAX_NEW_TOKENS, questions=tuple(references))
    (folder / FILE).write_bytes(msgspec.json.encode(kept) + b"\n")


def as_seen(frame: Frame, transform: ImageTransform) -> Frame:
    """The frame as the model sees it, BGR, if the transform makes the same of it; else itself."""
    place = transform.placement(frame.shape[1], frame.shape[0])
    plain = msgspec.structs.replace(transform, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = np.rint(plain.apply(frame)[0, ::-1] * 255).astype(np.uint8).transpose(1, 2, 0)
    rows = slice(place.offset_y, place.offset_y + place.content_height)
    columns = slice(place.offset_x, place.offset_x + place.content_width)
    small: Frame = np.ascontiguousarray(pixels[rows, columns])
    same = small.size < frame.size and np.array_equal(
        transform.apply(small), transform.apply(frame)
    )
    return small if same else frame


def _agree(
    manifest: BundleManifest,
    questions: Sequence[int],
    samples: Sequence[Sample],
    traces: Sequence[Trace],
    exported: Sequence[Trace],
) -> bool:
    """Whether the graphs pass the default gate on the questions about one frame."""
    figures = compare(
        "references",
        [samples[i] for i in questions],
        [traces[i] for i in questions],
        [exported[i] for i in questions],
        manifest.image,
        manifest.grounding.bins,
    )
    return not failures(figures, Gate())


def _by_coverage(
    frames: dict[str, list[int]], samples: Sequence[Sample], traces: Sequence[Trace]
) -> Iterator[list[int]]:
    """The questions of one frame after the other, those with types not seen yet first.

    Among equals the frame comes first in which torch drew more boxes: places drift before words.
    """
    left = list(frames.values())
    seen: Counter[str] = Counter()
    while left:
        best = max(
            left,
            key=lambda questions: (
                len({samples[i].type for i in questions} - seen.keys()),
                sum(len(traces[i].answer.objects) for i in questions),
            ),
        )
        left.remove(best)
        seen.update(samples[i].type for i in best)
        yield best


def _reference(
    name: str, stored: Frame, sample: Sample, trace: Trace, transform: ImageTransform
) -> Reference:
    """What torch said about a sample, in pixels of the frame that is stored for it."""
    frame = transform.placement(sample.frame.shape[1], sample.frame.shape[0])
    there = transform.placement(stored.shape[1], stored.shape[0])
    logits = trace.logits[trace.prompt_length]
    top = np.argsort(-logits, kind="stable")[:TOP_LOGITS]
    return Reference(
        picture=name,
        question=sample.text,
        type=sample.type,
        mode=sample.mode,
        text=trace.answer.text,
        found=trace.answer.found,
        objects=tuple(_moved(item, frame, there) for item in trace.answer.objects),
        top_ids=tuple(top.tolist()),
        top_logits=tuple(logits[top].tolist()),
        ids=trace.generated,
    )


def _moved(item: GroundedObject, frame: Placement, there: Placement) -> GroundedObject:
    """The object in pixels of another size of the same frame."""
    box, point = (
        at and tuple(there.from_unit(frame.to_unit(at)).tolist())
        for at in (item.box_xyxy, item.point_xy)
    )
    return msgspec.structs.replace(item, box_xyxy=box, point_xy=point)
