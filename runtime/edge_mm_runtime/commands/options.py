"""Options that commands share."""

from __future__ import annotations

import argparse

from edge_mm_runtime.devices import DEVICES


def add_session_options(parser: argparse.ArgumentParser) -> None:
    """--bundle, --device and --threads, as `Session` takes them."""
    parser.add_argument("--bundle", default="default", help="bundle folder (default: the shipped)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="what answers (cpu)")
    parser.add_argument("--threads", type=int, help="threads (default: all cores)")
