"""`edge-mm train` under FSDP on CPUs: a script for `accelerate launch`.

accelerate takes FSDP on accelerators only: here it takes CPUs for some. With STOP_AT_STEP in the
environment a run ends once it has saved itself at that step of its stage.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

from edge_mm.train import loop
from edge_mm.train.command import main


def fsdp_accelerator(**settings: Any) -> Accelerator:
    """As the launcher's environment describes it, but on CPUs."""
    PartialState(cpu=True).distributed_type = DistributedType.MULTI_GPU
    return Accelerator(**settings)


class StoppingRun(loop.Run):
    def save(self) -> None:
        super().save()
        if self.step == int(os.environ.get("STOP_AT_STEP", "-1")):
            sys.exit(0)


if __name__ == "__main__":
    loop.Accelerator = fsdp_accelerator  # type: ignore[misc,assignment]
    loop.Run = StoppingRun  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
