"""What a run says while it runs: log.jsonl, a line on the terminal, TensorBoard if asked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edge_mm_runtime.extras import require


class RunLog:
    """Appends to `out/log.jsonl`; `out=None` says nothing (all processes but the first)."""

    def __init__(self, out: Path | None, tensorboard: bool):
        self.out, self.board = out, None
        if out is not None and tensorboard:
            require("tensorboard", "train")
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"))

    def line(self, values: dict[str, Any], samples: int) -> None:
        """One line of named values; numbers go to TensorBoard by the number of samples seen."""
        if self.out is None:
            return
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(rounded) + "\n")
        print(" ".join(f"{name}={value}" for name, value in rounded.items()), flush=True)
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{values['stage']}/{name}", value, samples)

    def progress(self, stage: str, step: int, last: int, per_s: float) -> None:
        """The bar on a terminal, rewritten in place; nothing in a pipe."""
        if self.out is not None and sys.stderr.isatty():
            done = round(30 * step / max(last, 1))
            bar = "#" * done + "-" * (30 - done)
            left = (last - step) / max(per_s, 1e-9)
            text = f"\r{stage} [{bar}] {step}/{last}, {left / 60:.1f} min left "
            print(text, end="" if step < last else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
