"""`edge-mm check BUNDLE`: its files, and that it answers."""

from __future__ import annotations

import argparse

from edge_mm_runtime.answer import MODES


def main(argv: list[str]) -> int:
    """Print what was checked; 0 when all is well, 1 when an answer fails."""
    parser = argparse.ArgumentParser(
        prog="edge-mm check",
        description="Check a bundle's files, then ask it about a plain picture in every mode.",
    )
    parser.add_argument(
        "bundle", nargs="?", default="default", help="bundle folder (default: the shipped)"
    )
    args = parser.parse_args(argv)
    import numpy as np

    from edge_mm_runtime.session import Session

    failures = 0
    with Session(args.bundle) as session:
        manifest = session.bundle.manifest
        size = sum(entry.bytes for entry in manifest.files)
        print(f"{session.bundle.folder}: {manifest.name}, schema {manifest.schema}")
        print(f"{len(manifest.files)} files, {size / 1e6:.1f} MB: sizes and hashes are right")
        ramp = np.linspace(0, 255, 240 * 320 * 3).reshape(240, 320, 3).astype(np.uint8)
        for mode in MODES:
            try:
                answer = session.ask(ramp, "find the red cup", mode=mode)
            except (ValueError, RuntimeError) as error:  # e.g. a graph that computes NaN
                print(f"{mode:<8} FAILED: {error}")
                failures += 1
                continue
            print(f"{mode:<8} ok: {answer.text[:40]!r}, {answer.timings_ms['total']:.0f} ms")
    return 1 if failures else 0
