"""`edge-mm data make|convert|check|shard`: render, take over, look for mistakes, pack."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

CHECK_EXIT = "Exit code: 0 when nothing is wrong, 1 when problems were found, 2 when it cannot run."


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(prog="edge-mm data", description="Make and check data.")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="make|convert|check|shard"
    )
    _add_make(commands.add_parser("make", help="render a data set"))
    _add_convert(commands.add_parser("convert", help="COCO, RefCOCO, LLaVA, CSV -> data folder"))
    _add_check(
        commands.add_parser(
            "check", help="find what is wrong with a data folder", epilog=CHECK_EXIT
        )
    )
    _add_shard(commands.add_parser("shard", help="data folder -> WebDataset shards to stream"))
    arguments = parser.parse_args(argv)
    run = {"make": _make, "convert": _convert, "check": _check, "shard": _shard}
    return run[arguments.command](arguments)


def _add_make(make: argparse.ArgumentParser) -> None:
    make.add_argument("world", choices=["tabletop"], help="which world")
    make.add_argument("--count", type=int, required=True, help="pictures")
    make.add_argument("--seed", type=int, default=1)
    make.add_argument(
        "--split",
        default="train",
        choices=["train", "val", "meshes", "combos", "looks"],
        help="which part of the world: what was held out from train (default: train)",
    )
    make.add_argument("--out", type=Path, required=True, help="folder; taken up where it stopped")
    make.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    make.add_argument("--depth", action="store_true", help="write depth pictures too")
    make.add_argument("--packs", action="store_true", help="use installed scanned objects too")


def _make(arguments: argparse.Namespace) -> int:
    from edge_mm_runtime.extras import require

    require("mujoco", "data")
    from edge_mm.data.tabletop.packs import find_scans
    from edge_mm.data.tabletop.write import make_dataset

    print(
        make_dataset(
            arguments.out,
            arguments.count,
            arguments.seed,
            arguments.split,
            arguments.workers,
            arguments.depth,
            find_scans() if arguments.packs else (),
        )
    )
    return 0


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.add_argument(
        "--from",
        dest="source_format",
        required=True,
        choices=["coco", "refcoco", "llava", "csv"],
        help="coco: detection JSON; refcoco: JSON list of references; llava: conversations; "
        "csv: columns image,caption",
    )
    convert.add_argument("source", type=Path, metavar="SOURCE", help="the file")
    convert.add_argument(
        "--images", type=Path, required=True, help="folder of the pictures; they stay there"
    )
    convert.add_argument("--out", type=Path, required=True, help="data folder to write; a new one")
    convert.add_argument(
        "--instances",
        type=Path,
        help="refcoco: the COCO file of the objects (default: instances.json beside SOURCE)",
    )
    convert.add_argument("--split", help="refcoco: references of this split only, e.g. train")


def _convert(arguments: argparse.Namespace) -> int:
    from edge_mm_runtime.errors import UsageError
    from edge_mm_runtime.extras import require

    name = arguments.source_format
    if name != "refcoco" and (arguments.instances or arguments.split):
        raise UsageError("--instances and --split belong to --from refcoco")
    require("cv2", "cpu")
    from edge_mm.data.formats.captions import read_captions
    from edge_mm.data.formats.coco import read_coco
    from edge_mm.data.formats.convert import convert
    from edge_mm.data.formats.llava import read_llava
    from edge_mm.data.formats.record import Skips
    from edge_mm.data.formats.refcoco import read_refcoco

    skips = Skips()
    if name == "refcoco":
        records = read_refcoco(arguments.source, skips, arguments.instances, arguments.split)
    else:
        readers = {"coco": read_coco, "llava": read_llava, "csv": read_captions}
        records = readers[name](arguments.source, skips)
    source = f"{name}: {arguments.source}"
    written = convert(records, arguments.images, arguments.out, source, skips)
    for line in skips.lines():
        print(line, file=sys.stderr)
    print(
        f"{arguments.out}: {written.pictures} pictures, {written.objects} objects, "
        f"{written.questions} questions"
    )
    return 0


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("folder", type=Path, metavar="FOLDER", help="folder with scenes.json")
    check.add_argument("--test", type=Path, help="data folder whose pictures must not be in FOLDER")
    check.add_argument("--json", action="store_true", help="print one JSON object")


def _check(arguments: argparse.Namespace) -> int:
    from edge_mm_runtime.extras import require

    require("cv2", "cpu")
    import msgspec

    from edge_mm.data.check import check_folder, text

    report = check_folder(arguments.folder, arguments.test)
    print(msgspec.json.encode(report).decode() if arguments.json else text(report))
    return 1 if report.problems else 0


def _add_shard(shard: argparse.ArgumentParser) -> None:
    shard.add_argument("folder", type=Path, metavar="FOLDER", help="folder with scenes.json")
    shard.add_argument("--out", type=Path, required=True, help="folder of tar files; a new one")
    shard.add_argument(
        "--per-shard",
        type=int,
        default=1000,
        help="samples of a shard (default: 1000); there must be a shard for every process and "
        "each of its data.workers",
    )


def _shard(arguments: argparse.Namespace) -> int:
    from edge_mm_runtime.extras import require

    require("cv2", "cpu")
    from edge_mm.data.shards import write_shards

    shards = write_shards(arguments.folder, arguments.out, arguments.per_shard)
    print(f"{arguments.out}: {len(shards)} shards; in a recipe: data.train=[{arguments.out}/*.tar]")
    return 0
