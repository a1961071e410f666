"""`edge-mm eval CHECKPOINT|BUNDLE --data DIR`: the exam, with confidence intervals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_mm_runtime.session import Session


def main(argv: list[str]) -> int:
    """Parse, examine, print."""
    parser = argparse.ArgumentParser(
        prog="edge-mm eval", description="Ask a model about annotated scenes and judge the answers."
    )
    parser.add_argument("model", help="a checkpoint folder, a bundle folder, or 'default'")
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes.json")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument("--questions", type=int, default=8, help="questions a picture (default: 8)")
    parser.add_argument(
        "--held-out-templates",
        action="store_true",
        help="ask in sentences that were never trained on",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed asks other questions")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)

    from edge_mm_runtime.extras import require

    require("cv2", "cpu")
    from edge_mm.evaluate.exam import examine, table

    with open_model(arguments.model) as session:
        metrics = examine(
            session.ask,
            arguments.data,
            limit=arguments.limit,
            questions=arguments.questions,
            seed=arguments.seed,
            held_out=arguments.held_out_templates,
        )
    if arguments.json:
        import msgspec

        print(json.dumps({"metrics": msgspec.to_builtins(metrics)}))
    else:
        print(table(metrics))
    return 0


def open_model(name: str) -> Session:
    """A session on a bundle, or on the torch model of a checkpoint."""
    if (Path(name) / "config.json").is_file():
        from edge_mm_runtime.extras import require

        require("torch", "train")
        from edge_mm.model.session import open_checkpoint

        return open_checkpoint(Path(name))
    from edge_mm_runtime.session import Session

    return Session(name)
