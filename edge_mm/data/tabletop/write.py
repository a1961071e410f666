"""A data set on disk, made by several processes, that can be interrupted and taken up again.

`OUT/images/000123.jpg`, `OUT/segmentation/000123.png` (0: background, else the object's id),
`OUT/depth/000123.png` (uint16 millimetres, on request), `OUT/labels/000123.json`, and at the end
`OUT/scenes.json` with all labels and `OUT/contact_sheet.jpg`. A sample depends on (seed, split,
index) only. The label is written last, so a sample with a label is complete.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import multiprocessing
import multiprocessing.util
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_mm.data.tabletop.packs import INSTALL, Scan
from edge_mm.data.tabletop.splits import SPLITS, Rules
from edge_mm.words import KINDS
from edge_mm_runtime.errors import EdgeMMError, UsageError

VERSION = 2
VIEWS_PER_SCENE = 2
CHUNK = 32  # samples a task
TASKS_PER_WORKER = 30  # then the processes are replaced, so that memory stays flat
SHEET_SAMPLES = 48


class RendererError(EdgeMMError):
    """The renderer cannot start on this machine."""


def make_dataset(
    out: Path,
    count: int,
    seed: int,
    split: str,
    workers: int = os.cpu_count() or 1,
    depth: bool = False,
    scans: tuple[Scan, ...] = (),
) -> Path:
    """Render samples 0..count-1 of a split into `out` (existing ones are kept) and index them.

    `scans` (packs.find_scans) take the place of some of our own meshes. Returns the path of
    `scenes.json`. Raises UsageError for bad arguments or a folder of another seed, split or set of
    scans, RendererError without OSMesa.
    """
    check_arguments(count, seed, split, workers)
    check_scans(split, scans)
    check_renderer()
    prepare_folder(out, seed, split, depth, scans)
    missing = [k for k in range(count) if not (out / "labels" / f"{k:06d}.json").exists()]
    firsts = sorted({k - k % VIEWS_PER_SCENE for k in missing})
    step = CHUNK // VIEWS_PER_SCENE
    tasks = [firsts[k : k + step] for k in range(0, len(firsts), step)]
    started, done = time.monotonic(), 0
    per_pool = workers * TASKS_PER_WORKER
    for start in range(0, len(tasks), per_pool):
        batch = tasks[start : start + per_pool]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(batch)), context) as pool:
            futures = [
                pool.submit(render_task, out, task, count, seed, split, depth, scans)
                for task in batch
            ]
            for future in as_completed(futures):
                done += future.result()
                rate = done / (time.monotonic() - started)
                have, left = count - len(missing) + done, (len(missing) - done) / max(rate, 1e-6)
                line = f"\r{split}: {have}/{count} samples, {rate:.1f}/s, {left:.0f} s left "
                print(line, end="", file=sys.stderr, flush=True)
    if tasks:
        print(file=sys.stderr)
    index = write_index(out, count, seed, split, scans)
    write_contact_sheet(out, count)
    return index


def check_arguments(count: int, seed: int, split: str, workers: int) -> None:
    """Raise UsageError for a value out of range."""
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if not 1 <= count <= 1_000_000:
        raise UsageError(f"count {count} is not in 1..1000000")
    if not 0 <= seed < 1000:
        raise UsageError(f"seed {seed} is not in 0..999")
    if workers < 1:
        raise UsageError(f"workers {workers} is not at least 1")


def check_scans(split: str, scans: tuple[Scan, ...]) -> None:
    """Raise UsageError where packs were asked for but this split may show none of them."""
    rules = Rules(split, scans)
    if scans and not any(rules.scans_of(kind) for kind in KINDS):
        raise UsageError(f"no installed scan is for split {split!r}: {INSTALL}")


def check_renderer() -> None:
    """Raise RendererError, with the line that helps, where MuJoCo or OSMesa is missing."""
    import importlib.util

    if importlib.util.find_spec("mujoco") is None:
        raise RendererError("mujoco is not installed: pip install 'edge-mm[data]'")
    if ctypes.util.find_library("OSMesa") is None:
        raise RendererError("libOSMesa is not installed: sudo apt-get install libosmesa6")


def prepare_folder(
    out: Path, seed: int, split: str, depth: bool, scans: tuple[Scan, ...] = ()
) -> None:
    """Make the folders; refuse one that was begun with other settings."""
    stamp: dict[str, Any] = {"version": VERSION, "seed": seed, "split": split}
    if scans:
        names = " ".join(scan.name for scan in scans)
        stamp["scans"] = f"{len(scans)}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    try:
        for name in ("images", "segmentation", "labels", *(["depth"] if depth else [])):
            (out / name).mkdir(parents=True, exist_ok=True)
        path = out / "dataset.json"
        if path.exists():
            begun = json.loads(path.read_text())
            if begun != stamp:
                raise UsageError(
                    f"{out} was begun with {begun}, now asked for {stamp}: use another folder"
                )
        else:
            path.write_text(json.dumps(stamp))
    except OSError as error:
        raise UsageError(f"cannot write to {out}: {error.strerror}") from error


def render_task(
    out: Path,
    firsts: list[int],
    count: int,
    seed: int,
    split: str,
    depth: bool,
    scans: tuple[Scan, ...],
) -> int:
    """Render the pairs that begin at `firsts`; runs in a worker. Returns how many were missing."""
    cv2.setNumThreads(1)
    from edge_mm.data.tabletop.world import render_pair

    written = 0
    for first in firsts:
        for index, sample in render_pair(_studio(), seed, split, first, scans):
            if index >= count or (out / "labels" / f"{index:06d}.json").exists():
                continue
            name = f"{index:06d}"
            save(
                out / "images" / f"{name}.jpg",
                sample.image[..., ::-1],
                [cv2.IMWRITE_JPEG_QUALITY, sample.jpeg_quality],
            )
            save(out / "segmentation" / f"{name}.png", sample.segmentation, [])
            if depth:
                millimetres = np.clip(sample.depth_m * 1000, 0, 65535).astype(np.uint16)
                save(out / "depth" / f"{name}.png", millimetres, [])
            files = {
                "id": name,
                "image": f"images/{name}.jpg",
                "segmentation": f"segmentation/{name}.png",
                "depth": f"depth/{name}.png" if depth else None,
            }
            replace_text(out / "labels" / f"{name}.json", json.dumps({**files, **sample.label}))
            written += 1
    return written


_STUDIO: Any = None


def _studio() -> Any:
    """This worker's one OpenGL context."""
    global _STUDIO
    if _STUDIO is None:
        from edge_mm.data.tabletop.render import Studio

        _STUDIO = Studio()
        multiprocessing.util.Finalize(None, _STUDIO.close, exitpriority=10)
    return _STUDIO


def save(path: Path, image: np.ndarray[Any, Any], options: list[int]) -> None:
    """Encode by the suffix, write beside, rename."""
    ok, data = cv2.imencode(path.suffix, image, options)
    if not ok:
        raise RendererError(f"{path} could not be encoded")
    part = path.with_suffix(".part")
    part.write_bytes(data.tobytes())
    part.replace(path)


def replace_text(path: Path, text: str) -> None:
    """Write beside, rename."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def write_index(out: Path, count: int, seed: int, split: str, scans: tuple[Scan, ...] = ()) -> Path:
    """Assemble `scenes.json` from the labels; it names the licence of every scan in use."""
    scenes = [json.loads((out / "labels" / f"{k:06d}.json").read_text()) for k in range(count)]
    command = f"edge-mm data make tabletop --count {count} --seed {seed} --split {split}"
    generator: dict[str, Any] = {
        "name": "edge_mm.data.tabletop",
        "version": str(VERSION),
        "command": command + " --packs" if scans else command,
        "seed": seed,
        "split": split,
    }
    if scans:
        shown = {item["mesh"] for scene in scenes for item in scene["objects"]}
        generator["scans"] = {s.name: s.row.licence for s in scans if s.name in shown}
    path = out / "scenes.json"
    replace_text(path, json.dumps({"schema": 1, "generator": generator, "scenes": scenes}))
    return path


def write_contact_sheet(out: Path, count: int, cell: int = 300, columns: int = 8) -> None:
    """The first samples with their boxes and names, as one picture."""
    cells = []
    for index in range(min(count, SHEET_SAMPLES)):
        label = json.loads((out / "labels" / f"{index:06d}.json").read_text())
        image = cv2.imread(str(out / label["image"]))
        if image is None:
            raise UsageError(
                f"{out / label['image']} cannot be read: delete its label and make it again"
            )
        scale = cell / max(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale)
        for item in label["objects"]:
            x1, y1, x2, y2 = (int(v * scale) for v in item["box_xyxy"])
            cv2.rectangle(image, (x1, y1), (x2, y2), (0, 255, 0), 1)
            text = f"{item['color']} {item['kind']}" if item["color"] else item["kind"]
            for color, width in (((0, 0, 0), 2), ((0, 255, 255), 1)):
                cv2.putText(image, text, (x1, max(y1 - 2, 9)), 0, 0.32, color, width, cv2.LINE_AA)
        square = np.zeros((cell, cell, 3), np.uint8)
        square[: image.shape[0], : image.shape[1]] = image[:cell, :cell]
        cells.append(square)
    cells += [np.zeros((cell, cell, 3), np.uint8)] * (-len(cells) % columns)
    rows = [np.hstack(cells[k : k + columns]) for k in range(0, len(cells), columns)]
    save(out / "contact_sheet.jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, 88])
