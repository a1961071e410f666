"""`edge-mm build BUNDLE`: TensorRT engines of a bundle, on the device or ahead of time."""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_mm_runtime.engines.build import Built

_GIB = 1 << 30


def main(argv: list[str]) -> int:
    """Build and tell what was built; returns the exit code."""
    args = _parse(argv)
    import msgspec

    from edge_mm_runtime.bundle import load_bundle
    from edge_mm_runtime.engines.build import build_engines

    bundle = load_bundle(args.bundle)
    limit = None if args.memory_limit is None else int(args.memory_limit * _GIB)
    try:
        built = build_engines(
            bundle,
            compute_capability=args.compute_capability,
            memory_limit_bytes=limit,
            show=_show if sys.stderr.isatty() else lambda line: None,
        )
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
    if args.json:
        record = {"folder": str(built.folder), "built": built.fresh}
        print(json.dumps({**record, **msgspec.to_builtins(built.manifest)}))
    else:
        print(describe(built))
    return 0


def describe(built: Built) -> str:
    """The engines for people: where, for what, and a line for each."""
    made = built.manifest.machine
    flavour = "TensorRT" if made.flavour == "tensorrt" else "TensorRT-RTX"
    head = "built" if built.fresh else "already there"
    lines = [
        f"{built.folder}: {head}",
        f"{made.gpu} (SM{made.compute_capability}), {flavour} {made.tensorrt}, "
        f"{built.manifest.precision}",
    ]
    for name, plan in built.manifest.plans.items():
        profiles = ", ".join(profile.name for profile in plan.profiles) or "fixed shapes"
        lines.append(f"{name:<8} {plan.bytes / 1e6:.1f} MB in {plan.build_s:.1f} s, {profiles}")
    return "\n".join(lines)


def _show(line: str) -> None:
    """The newest line of progress in place of the last one."""
    width = shutil.get_terminal_size().columns - 1
    print(f"\r\x1b[2K{line[:width]}", end="", file=sys.stderr, flush=True)


def _capability(text: str) -> int:
    """ "87", "8.7" or "sm_87" -> 87."""
    found = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.lower())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no compute capability: give e.g. 89")
    return int(found[1] + found[2])


def _gib(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no size in GiB: give e.g. 6")
    return size


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="edge-mm build",
        description="Build TensorRT engines of a bundle's tensorrt graphs, for the GPU of this "
        "machine. With --compute-capability TensorRT-RTX builds them ahead of time for an RTX "
        "GPU; engines of a Jetson are built on the Jetson.",
        epilog="example: edge-mm build nano-trt --compute-capability 89",
    )
    parser.add_argument(
        "bundle", nargs="?", default="default", help="bundle folder (default: the shipped)"
    )
    parser.add_argument(
        "--compute-capability",
        type=_capability,
        metavar="CC",
        help="of the GPU to build for, e.g. 89 (default: the one here)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_gib,
        metavar="GiB",
        help="memory that the build may take (default: what is free)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)
